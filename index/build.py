"""From item vectors to a Faiss index file.

Shapes: V catalogue, D width.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

INDEX_FILE, CARD_FILE = "index.faiss", "index.json"


def build_index(vectors_VD: NDArray[np.float32], folder: Path) -> None:
    """Write `index.faiss` (exact inner product) and its card `index.json` into `folder`.

    The card repeats the hash of the vectors, so that an index is never served with other ones.
    """
    index = faiss.IndexFlatIP(vectors_VD.shape[1])
    index.add(np.ascontiguousarray(vectors_VD, dtype=np.float32))
    faiss.write_index(index, str(folder / INDEX_FILE))
    card = {
        "kind": "flat",
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()
