"""The canonical form of a filter, in which a front end sends it to the engine.

Equal filters have equal forms, so that the form is the key of what the engine keeps about a filter.
It is a JSON object with conditions under "all", "any" and "none". An item is allowed if it matches
every condition of "all", at least one of "any" if there are any, and none of "none". A condition
names a field, and all that it says must be true of the item's value:

    {"field": "genres", "in": ["Comedy", "Drama"]}     it has one of these values
    {"field": "price", "gte": 5.0, "lt": 20.0}         its value is within the bounds

An item without a value matches no condition. Front ends import this module, so it is light.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Condition = Mapping[str, Any]
GROUPS = ALL, ANY, NONE = "all", "any", "none"


def canonical_form(groups: Mapping[str, Sequence[Condition]]) -> bytes:
    """Returns the canonical form of conditions by group, whatever their order and repetitions."""
    unlike = {name: {_canonical(one) for one in groups.get(name, ())} for name in GROUPS}
    parts = [f'"{name}":[{",".join(sorted(found))}]' for name, found in unlike.items() if found]
    return f"{{{','.join(parts)}}}".encode()


def conditions(form: bytes) -> dict[str, list[Condition]]:
    """Returns the conditions of a canonical form, by group."""
    groups: dict[str, list[Condition]] = json.loads(form)
    return groups


def _canonical(condition: Condition) -> str:
    given = {name: value for name, value in condition.items() if value is not None}
    if "in" in given:
        given["in"] = sorted(set(given["in"]))
    return json.dumps(given, sort_keys=True, separators=(",", ":"))
