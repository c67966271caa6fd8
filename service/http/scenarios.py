"""Scenarios: named sets of fields of a recall, in a TOML file that is read again when it changes.

    [homepage]
    k = 50
    repeats = {after_days = 30}

A request names a scenario and may override any field of it. A file that cannot be used does not
replace the one before: the scenarios stay, and the log and `GET /scenarios` say what is wrong.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from model.kinds import Kind
from service.errors import FieldError, Invalid
from service.http.filters import checked_form
from service.http.schemas import Body, RecallRequest, ScenarioName
from service.http.variety import checked_rules
from service.http.watched_file import WatchedFile

Attributes = Mapping[str, Kind]
"""The attributes of items that a filter can read, and their kinds."""
MAX_SCENARIOS = 1000
PER_REQUEST = {"user_id", "history", "seeds", "offers", "exclude", "scenario", "cursor"}
"""Fields that are a request's own."""

_fields: dict[str, Any] = {
    name: (field.annotation, field)
    for name, field in RecallRequest.model_fields.items()
    if name not in PER_REQUEST
}
Scenario: type[BaseModel] = create_model(
    "Scenario", __base__=Body, __doc__="Fields of a recall that have a name together.", **_fields
)
Fields = Mapping[str, Mapping[str, Any]]
"""The fields of each scenario."""
_FILE = TypeAdapter(dict[ScenarioName, Scenario])


class ScenariosResponse(BaseModel):
    """The scenarios that requests can name."""

    scenarios: dict[str, dict[str, Any]] = Field(description="fields of a recall, by scenario")
    problem: str | None = Field(
        None, description="why the file, which has changed, is not used: these are the ones before"
    )


class Scenarios:
    """The scenarios of a file; none without a file."""

    def __init__(
        self, file: Path | None, attributes: Callable[[], Attributes | None] = lambda: None
    ) -> None:
        """Reads the file. Raises ValueError that names the file, the scenario and the field.

        Filters are checked when the attributes of the items are known, and again of each bundle.
        """
        without: Fields = {}
        self.file = WatchedFile(file, lambda path: _read(path, attributes()), without, attributes)

    def applied_to(self, body: RecallRequest) -> RecallRequest:
        """Returns the request with the fields of its scenario that it does not give itself.

        Raises Invalid if there is no such scenario.
        """
        if body.scenario is None:
            return body
        fields = self.file.content.get(body.scenario)
        if fields is None:
            known = ", ".join(self.file.content) or "none: see --scenarios"
            words = f"There is no such scenario; there are {known}"
            raise Invalid(f"scenario: {words}", [FieldError("scenario", words)])
        missing = fields.keys() - body.model_fields_set
        return body.model_copy(update={name: fields[name] for name in missing})

    async def listed(self) -> ScenariosResponse:
        """Lists the scenarios that requests can name, with their fields."""
        found = {
            name: Scenario.model_construct(**fields).model_dump(mode="json", exclude_unset=True)
            for name, fields in self.file.content.items()
        }
        return ScenariosResponse(scenarios=found, problem=self.file.problem)


def _read(file: Path, attributes: Attributes | None) -> Fields:
    """Returns the given fields of each scenario. Raises ValueError if the file cannot be used."""
    found = _parsed(file)
    for name, fields in found.items():
        if attributes is not None:
            try:
                check_fields(fields, attributes, f"{name}.")
            except Invalid as error:
                raise ValueError(f"--scenarios: {file}: {error.detail}") from None
    return found


def check_fields(fields: Mapping[str, Any], attributes: Attributes, where: str) -> None:
    """Raises Invalid if a filter or a rule of variety does not fit the attributes."""
    if fields.get("filter"):
        checked_form(fields["filter"], attributes, where)
    caps, diversity = fields.get("caps", []), fields.get("diversity", 0.0)
    checked_rules(caps, diversity, fields.get("fresh"), attributes, where)


def _parsed(file: Path) -> Fields:
    try:
        found = _FILE.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise ValueError(f"--scenarios: {file}: {where}: {problem['msg']}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"--scenarios: {file}: {error}") from error
    if len(found) > MAX_SCENARIOS:
        raise ValueError(f"--scenarios: {file}: more than {MAX_SCENARIOS} scenarios")
    return {
        name: {field: getattr(given, field) for field in given.model_fields_set}
        for name, given in found.items()
    }
