"""The figures of `loadtest.quality.quality` as Markdown, beside the best published ones.

Published: test split, leave one out, whole catalogue, history masked, as ours.
"""

from collections.abc import Iterator
from typing import TypedDict

METRICS = ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")
BSAREC = {  # five-seed means, of Yelp one run
    "Beauty": (0.0721, 0.1004, 0.1358, 0.0518, 0.0609, 0.0698),
    "Sports": (0.0408, 0.0596, 0.0856, 0.0282, 0.0342, 0.0407),
    "Toys": (0.0773, 0.1050, 0.1398, 0.0561, 0.0650, 0.0738),
    "Yelp": (0.0261, 0.0442, 0.0731, 0.0168, 0.0226, 0.0298),
}
BEST_SINGLE = {
    "Beauty": (0.0738, 0.1041, 0.1391, 0.0523, 0.0614, 0.0703),
    "Sports": (0.0433, 0.0631, 0.0895, 0.0302, 0.0367, 0.0433),
    "Toys": (0.0805, 0.1081, 0.1435, 0.0589, 0.0679, 0.0768),
    "Yelp": (0.0275, 0.0465, 0.0746, 0.0170, 0.0231, 0.0302),
}
OWN = "recgpt"
MARK = "quality"


class Entry(TypedDict):
    """Figures of one model on one data set, in the order of METRICS."""

    seeds: list[int]
    mean: list[float]
    sd: list[float]


Quality = dict[str, dict[str, Entry]]
"""Entries by data set and model."""


def table(quality: Quality) -> Iterator[str]:
    """Markdown: a table a data set, then how often ours is above the published figures."""
    yield "Mean ± standard deviation over the seeds. **Bold**: above BSARec's published mean;"
    yield "**bold†**: above the best single published figure, too."
    for place, entries in quality.items():
        yield f"\n### {place}\n"
        yield "| model | seeds | " + " | ".join(METRICS) + " |"
        yield "|---" * (len(METRICS) + 2) + "|"
        for model, entry in entries.items():
            cells = [cell(place, column, entry) for column in range(len(METRICS))]
            yield f"| {model} | {len(entry['seeds'])} | " + " | ".join(cells) + " |"
        for name, figures in (
            ("BSARec, published mean", BSAREC[place]),
            ("best single published figure", BEST_SINGLE[place]),
        ):
            yield f"| *{name}* | | " + " | ".join(f"{value:.4f}" for value in figures) + " |"
    yield ""
    yield from verdict(quality)


def cell(place: str, column: int, entry: Entry) -> str:
    """One figure with its spread, marked where it is above the published ones."""
    mean = entry["mean"][column]
    text = f"{mean:.4f}" + (f" ± {entry['sd'][column]:.4f}" if len(entry["seeds"]) > 1 else "")
    if mean > max(BSAREC[place][column], BEST_SINGLE[place][column]):
        return f"**{text}†**"
    return f"**{text}**" if mean > BSAREC[place][column] else text


def verdict(quality: Quality) -> Iterator[str]:
    """Cells of ours above the published figures, and those that are short, one by one."""
    for name, published in (
        ("BSARec's published means", BSAREC),
        ("the best single published figures", BEST_SINGLE),
    ):
        gaps = {
            f"{place} {metric}": mean - bar
            for place, entries in quality.items()
            if OWN in entries
            for metric, mean, bar in zip(
                METRICS, entries[OWN]["mean"], published[place], strict=True
            )
        }
        short = [f"{where} ({gap:+.4f})" for where, gap in gaps.items() if gap <= 0]
        yield f"{OWN} is above {name} in {len(gaps) - len(short)} of {len(gaps)} cells."
        if short:
            yield f"Not above: {', '.join(short)}."
        yield ""
