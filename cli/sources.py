"""Sources of option values besides flags: the environment and a TOML file.

A name that no command knows is told, because a misspelt option would otherwise be a default that
nobody notices. An option of another command is passed over in silence: one file or environment may
serve several commands.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

PREFIX = "RECGPT_"
OTHER_VARIABLES = ("RECGPT_API_KEYS", "RECGPT_CONFIG", "RECGPT_CACHE_DIR", "RECGPT_PUBLIC_DATA")
"""Variables of the project that are no options."""

INJECTED = re.compile(
    r"RECGPT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with recgpt."""
NAMED_BY_DATA = ("item_kinds",)
"""Options whose keys are names in the data: their dashes stay."""
ADDRESS = re.compile(r"(tcp|udp|sctp)://")
"""Start of the value that Kubernetes gives `…_PORT`: an address where an option wants a number."""

Options = dict[str, "Options | None"]
"""Names of options; those of a nested model under the name that groups them."""


class UsageError(ValueError):
    """A wrong command line, environment or file of options; the message names what is wrong."""


def options_of(model: type[BaseModel]) -> Options:
    """Returns the names of a model's fields as a tree."""
    found: Options = {}
    for name, field in model.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))  # those of `Model | None`, too
        nested = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        found[name] = options_of(nested[0]) if nested else None
    return found


def read_file(file: Path, told_by: str) -> dict[str, Any]:
    """Returns the values of a TOML file; a key may have dashes, as flags have.

    Raises ValueError, naming `told_by` (the flag or variable that names the file), if it can't be
    read; UsageError for a key that stands twice.
    """
    if not file.is_file():
        raise ValueError(f"{told_by}: there is no file {file}")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{told_by}: {file} is no TOML file: {error}") from error
    try:
        return _underscored(values)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def check_file(values: Mapping[str, Any], file: Path, known: Options) -> None:
    """Raises UsageError for a key that is no option."""
    if "config" in values:
        raise UsageError(f"{file}: config: a file of options can't name another")
    for path, near in unknown(values, known):
        raise UsageError(f"{file}: {path} is no option{_meant(near)}")


def unknown(
    values: Mapping[str, Any], known: Options, above: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yields the dotted names that are no options, with the names that are most like them."""
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            yield f"{above}{name}", [f"{above}{one}" for one in near]
        elif not isinstance(value, Mapping) or name in NAMED_BY_DATA:
            continue
        elif (nested := known[name]) is not None:
            yield from unknown(value, nested, f"{above}{name}.")
        else:
            for inner in value:  # a table named like an option that is a value
                near = get_close_matches(inner, known, n=1)
                yield f"{above}{name}.{inner}", [f"{above}{one}" for one in near]


def unknown_variables(variables: Mapping[str, str], known: Options) -> list[str]:
    """Returns a sentence for every one of these variables that no command reads."""
    sentences = []
    for variable, text in sorted(variables.items()):
        upper = variable.upper()
        if upper in OTHER_VARIABLES or INJECTED.fullmatch(upper):
            continue
        path = upper.removeprefix(PREFIX).lower().split("__")
        value = _json_object(text)
        for name in reversed(path):
            value = {name: value}
        for _, near in unknown(value, known):
            meant = [PREFIX + one.replace(".", "__").upper() for one in near]
            sentences.append(f"{variable} is no option{_meant(meant)}")
    return sentences


def injected(variables: Mapping[str, str | None]) -> list[str]:
    """Returns the names whose value is an address that Kubernetes put there."""
    return [
        name
        for name, value in variables.items()
        if INJECTED.fullmatch(name.upper()) and ADDRESS.match(value or "")
    ]


def _json_object(text: str) -> Any:
    """Returns the object that the text may be: a nested group of options can be given so."""
    try:
        return json.loads(text) if text.lstrip().startswith("{") else text
    except ValueError:
        return text


def _meant(near: list[str]) -> str:
    return f": did you mean {near[0]}?" if near else ""


def _underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by names without dashes. Raises ValueError if a name stands twice."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if (bare := name.replace("-", "_")) in plain:
            raise ValueError(f"{bare} stands twice, with dashes and without")
        plain[bare] = value
    nested = [n for n, v in plain.items() if isinstance(v, Mapping) and n not in NAMED_BY_DATA]
    return plain | {name: _underscored(plain[name]) for name in nested}
