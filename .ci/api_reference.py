"""The reference page of the API, in Markdown, from an OpenAPI document."""

import json
import re
from collections.abc import Iterator
from typing import Any

from typescript_types import type_of

Schema = dict[str, Any]

HEAD = """\
# API reference

<!-- Made from docs/openapi.json by `make api`: do not edit. -->

Version {version}, from the [OpenAPI document](openapi.json). A running service shows the same at
`/docs`, where operations can be tried. [Serve](serve.md) says how to use them, and
[security](security.md#keys) which keys they need. Every error is a [problem](#problem).
"""


def page_of(document: Schema) -> str:
    """Returns the page of a document."""
    lines = [HEAD.format(version=document["info"]["version"]), "## Operations\n"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    lines.append("## Bodies\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _body(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(title: str, operation: Schema) -> Iterator[str]:
    yield f"### `{title}`\n"
    yield f"{operation['summary']}. {_one_line(operation.get('description', ''))}\n"
    if body := _json(operation.get("requestBody", {})):
        yield f"Body: {_linked(body)}\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            meaning = one.get("description") or one["schema"].get("description", "")
            kind = _bounded(one["schema"])
            yield f"| `{one['name']}` | {one['in']} | {kind} | {_one_line(meaning)} |"
        yield ""
    yield from ("| status | body | meaning |", "|---|---|---|")
    for status, answer in sorted(operation["responses"].items()):
        kind = _json(answer) or next(iter(answer.get("content", {"": 0})))
        yield f"| {status} | {_linked(kind)} | {answer['description']} |"
    yield ""


def _body(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{_one_line(schema.get('description', ''))}\n"
    if "properties" not in schema:
        return
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    for field, about in schema["properties"].items():
        required = field in schema.get("required", [])
        default = "required" if required else _default(about)
        meaning = _one_line(about.get("description", ""))
        yield f"| `{field}` | {_bounded(about)} | {default} | {meaning} |"
    yield ""


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def _bounded(schema: Schema) -> str:
    """Returns the type of a value and its bounds."""
    kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    words: list[str] = []
    for one in kinds:
        inner = one.get("items", {})
        words += _bounds(one, "items" if one.get("type") == "array" else "characters")
        words += [f"each {word}" for word in _bounds(inner, "characters")]
    text = _linked(type_of(schema))
    return f"{text}; {', '.join(dict.fromkeys(words))}" if words else text


def _bounds(schema: Schema, unit: str) -> Iterator[str]:
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    yield from (f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema)
    lowest = schema.get("minLength", schema.get("minItems"))
    highest = schema.get("maxLength", schema.get("maxItems"))
    if lowest == highest:
        return
    if lowest is not None and highest is not None:
        yield f"{lowest} to {highest} {unit}"
    elif highest is not None:
        yield f"up to {highest} {unit}"


def _json(content: Schema) -> str:
    for kind in ("application/json", "application/problem+json"):
        if schema := content.get("content", {}).get(kind, {}).get("schema"):
            return type_of(schema)
    return ""


def _linked(kind: str) -> str:
    """Returns a type with links to its bodies, safe in a cell of a table."""
    text = kind.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
    known = r"(?<![\w\"])([A-Z]\w+)(?![\w\"]|&lt;)"
    return re.sub(known, lambda found: f"[{found[1]}](#{found[1].lower()})", text)


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
