"""What lies in a bundle's folder of its index, and the card that tells how to search.

index.faiss        the Faiss index
index.json         the card: kind, parameters, how the kind was chosen, and the vectors' hash
index_queries.npy  what it was chosen with, B D: none where those were made up
"""

import json
from pathlib import Path
from typing import Any, get_args

from index.formats import Kind

INDEX_FILE, CARD_FILE, QUERIES_FILE = "index.faiss", "index.json", "index_queries.npy"


def read_card(folder: Path) -> dict[str, Any]:
    """What `index.build` wrote. Raises OSError, KeyError, ValueError where there is none."""
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    if card["kind"] not in get_args(Kind):
        raise ValueError(f"{folder / CARD_FILE} is of the unknown kind {card['kind']!r}")
    return card


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card of an index."""
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
