"""TypeScript types from an OpenAPI document: an interface for each schema, and all operations."""

import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

HEAD = """\
/**
 * Types of the RecGPT API {version}, made from docs/openapi.json by `make api`: do not edit.
 *
 * `Operations["POST /recall"]["body"]` is what an operation takes, `["answer"]` what it gives.
 */
"""
PRIMITIVES = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def types_of(document: dict[str, Any]) -> str:
    """Returns the text of a file of types for a document."""
    schemas = document["components"]["schemas"]
    parts = [HEAD.format(version=document["info"]["version"])]
    parts += [_declaration(name, schemas[name]) for name in sorted(schemas)]
    operations = "\n".join(_operations(document["paths"]))
    parts.append(f"export interface Operations {{\n{operations}\n}}\n")
    return "\n".join(parts)


def _declaration(name: str, schema: Schema) -> str:
    comment = _comment(schema.get("description", ""), "")
    if "properties" not in schema:
        return f"{comment}export type {name} = {type_of(schema)};\n"
    return f"{comment}export interface {name} {_object(schema, '')}\n"


def _object(schema: Schema, indent: str) -> str:
    inner = indent + "  "
    lines = []
    for name, field in schema["properties"].items():
        optional = "" if name in schema.get("required", []) else "?"
        lines.append(_comment(field.get("description", ""), inner))
        lines.append(f"{inner}{_key(name)}{optional}: {type_of(field, inner)};\n")
    return "{\n" + "".join(lines) + indent + "}"


def type_of(schema: Schema, indent: str = "") -> str:
    """Returns the type of a schema. Raises ValueError for a form that it does not know."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(type_of(one, indent) for one in schema[union]))
    kind = schema.get("type")
    if kind is None:
        return "unknown"
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(type_of(one, indent) for one in schema['prefixItems'])}]"
        return f"Array<{type_of(schema.get('items', {}), indent)}>"
    if kind == "object":
        return _object_type(schema, indent)
    if kind not in PRIMITIVES:
        raise ValueError(f"a schema has the type {kind}, for which there is no type: {schema}")
    return PRIMITIVES[kind]


def _object_type(schema: Schema, indent: str) -> str:
    if "properties" in schema:
        return _object(schema, indent)
    values = schema.get("additionalProperties", True)
    return f"Record<string, {type_of(values, indent) if isinstance(values, dict) else 'unknown'}>"


def _operations(paths: Schema) -> Iterator[str]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            yield f"  {json.dumps(f'{method.upper()} {path}')}: {{"
            if body := _json(operation.get("requestBody", {})):
                yield f"    body: {body};"
            found = [_json(operation["responses"].get(code, {})) for code in ("200", "207")]
            known = list(dict.fromkeys(one for one in found if one)) or ["unknown"]
            yield f"    answer: {' | '.join(known)};"
            yield "  };"


def _json(content: Schema) -> str:
    """Returns the type of a body in JSON; empty if there is none."""
    schema = content.get("content", {}).get("application/json", {}).get("schema")
    return type_of(schema, "    ") if schema else ""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else json.dumps(name)


def _comment(text: str, indent: str) -> str:
    lines = text.replace("*/", "* /").strip().splitlines()
    if len(lines) < 2:
        return f"{indent}/** {lines[0]} */\n" if lines else ""
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"
