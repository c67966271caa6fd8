"""The kinds of index, and the files of an index in the folder of a bundle.

exact   every item is scored (`index.exact`)
ivf     inverted lists of 8-bit codes, of which a search looks at a part (`index.ivf`): approximate

index.json          the kind, its parameters, how it was chosen, and the hash of the item vectors
index.faiss         the inverted lists, as Faiss writes them; for `ivf` only
index_queries.npy   the queries B D of the measurement; missing if they were made up

Keys of index.json:

format                        version of these files
kind, parameters              {"lists", "nprobe"} for `ivf`: how many lists there are, and how many
                              of them a search looks at; {} for `exact`
requested, target             the kind and the recall that the export was asked for
queries                       "given", or "perturbed items"
metric, items, dim, vectors_sha256
filters                       {"gathered_share"}: the share of the items up to which a filter's
                              are gathered (`index.crossover`); missing in small catalogues
measured                      of `ivf`, where it was tried: see `index.build.choose_search`

Graphs (HNSW) and other kinds were measured and lost: docs/notebook/scale.md.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["exact", "ivf"]
FORMAT = 2
JSON_FILE, LISTS_FILE, QUERIES_FILE = "index.json", "index.faiss", "index_queries.npy"


def read_index_json(folder: Path) -> dict[str, Any]:
    """Returns what `index.build` wrote into a bundle.

    Raises OSError if there is no such file, KeyError or ValueError if it cannot be used.
    """
    file = folder / JSON_FILE
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if (found := content.get("format", 1)) != FORMAT:
        raise ValueError(
            f"{file} has the format {found}, and this version of recgpt reads {FORMAT}: "
            "export the run again (recgpt export)"
        )
    if content["kind"] not in get_args(Kind):
        raise ValueError(f"{file} is of the unknown kind {content['kind']!r}")
    return content


def write_index_json(folder: Path, content: dict[str, Any]) -> None:
    """Writes index.json."""
    text = json.dumps({"format": FORMAT} | content, indent=2) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
