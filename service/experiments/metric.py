"""Metrics of an experiment, as a user names them on the command line.

click               clicks of a user on items that the experiment's recalls offered
click/exposure      the same, for each of the user's recalls
watch.value         the sum of the values of `watch` events, such as seconds
exposure            recalls of a user
degraded/exposure   share of recalls that gave popular items only
"""

import re
from typing import NamedTuple, Self

EXPOSURES, DEGRADED = "exposure", "degraded"
SPECIAL = EXPOSURES, DEGRADED
FORM = re.compile(r"(?P<type>[a-z][a-z_]{0,31})(?P<value>\.value)?(?P<ratio>/exposure)?")


class Metric(NamedTuple):
    """A figure of every user, whose means the arms are compared by."""

    name: str
    """As it was given."""
    type: str
    """The type of the events, or `exposure`, or `degraded`."""
    of_values: bool
    """The values of the events are summed; else the events are counted."""
    per_exposure: bool
    """The figure is a ratio to the number of exposures, over all users of an arm."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a metric. Raises ValueError for one of another form."""
        found = FORM.fullmatch(text)
        if (
            not found
            or (found["type"] in SPECIAL and found["value"])
            or text == "exposure/exposure"
        ):
            raise ValueError(
                f"{text} is no metric: give a type of events such as click, click/exposure, or "
                "watch.value for the sum of their values"
            )
        return cls(text, found["type"], bool(found["value"]), bool(found["ratio"]))

    @property
    def column(self) -> str:
        """The column of a user's total."""
        return f"{self.type}.value" if self.of_values else self.type

    @property
    def before(self) -> str:
        """The column of the same total before the experiment."""
        return f"{self.column} before"
