"""Writes the documents of the API: docs/openapi.json, and from it a page and TypeScript types.

python .ci/api_documents.py [FOLDER]; the folder of the project by default.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

from api_reference import page_of
from typescript_types import types_of

from service.history.store import HistoryStore
from service.http.app import create_app
from service.http.engine import Engine
from service.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[1]
OPENAPI = "docs/openapi.json"
REFERENCE = "docs/api.md"
TYPESCRIPT = "deploy/client/typescript/recgpt.d.ts"


def openapi() -> dict[str, Any]:
    """Returns the OpenAPI document of a service with all operations."""
    # the document depends on routes and bodies alone
    engine, store = cast(Engine, None), cast(HistoryStore, None)
    settings = ServeSettings(artifacts=Path("."), store="", explorer=True)
    document: dict[str, Any] = create_app(settings, engine, store).openapi()
    return document


def documents() -> dict[str, str]:
    """Returns the text of each document by its path in the project."""
    document = openapi()
    return {
        OPENAPI: json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        REFERENCE: page_of(document),
        TYPESCRIPT: types_of(document),
    }


def main() -> None:
    """Writes the documents."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, text in documents().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
