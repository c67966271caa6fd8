"""The figures of `loadtest.quality.quality` as Markdown, beside the best published ones.

The published ones have our protocol: leave one out, test split, whole catalogue, history masked.
"""

from collections.abc import Iterator
from typing import TypedDict

METRICS = ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")
BSAREC = {  # means of five seeds, for Yelp one run
    "Beauty": (0.0721, 0.1004, 0.1358, 0.0518, 0.0609, 0.0698),
    "Sports": (0.0408, 0.0596, 0.0856, 0.0282, 0.0342, 0.0407),
    "Toys": (0.0773, 0.1050, 0.1398, 0.0561, 0.0650, 0.0738),
    "Yelp": (0.0261, 0.0442, 0.0731, 0.0168, 0.0226, 0.0298),
}
SINGLE_RUNS = {  # newest published runs of one seed, at width 64
    "KERec": {
        "Beauty": (0.0745, 0.1050, 0.1455, 0.0525, 0.0623, 0.0725),
        "Sports": (0.0442, 0.0643, 0.0916, 0.0304, 0.0369, 0.0438),
        "Toys": (0.0845, 0.1154, 0.1506, 0.0602, 0.0701, 0.0790),
        "Yelp": (0.0324, 0.0534, 0.0853, 0.0205, 0.0272, 0.0352),
    },
    "FICLRec": {"Yelp": (0.0319, 0.0521, 0.0826, 0.0201, 0.0266, 0.0342)},
    "TV-Rec": {"Yelp": (0.0290, 0.0474, 0.0777, 0.0186, 0.0245, 0.0321)},
}
BEST_SINGLE = {  # before KERec; for Yelp FICLRec's
    "Beauty": (0.0738, 0.1041, 0.1391, 0.0523, 0.0614, 0.0703),
    "Sports": (0.0433, 0.0631, 0.0895, 0.0302, 0.0367, 0.0433),
    "Toys": (0.0805, 0.1081, 0.1435, 0.0589, 0.0679, 0.0768),
    "Yelp": SINGLE_RUNS["FICLRec"]["Yelp"],
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
    """Yields Markdown: a table per data set, then how often ours is above the published figures."""
    yield "Mean ± standard deviation over the seeds. **Bold**: above BSARec's published mean;"
    yield "**bold†**: above the best single figure published before KERec, too."
    for data_set, entries in quality.items():
        yield f"\n### {data_set}\n"
        yield "| model | seeds | " + " | ".join(METRICS) + " |"
        yield "|---" * (len(METRICS) + 2) + "|"
        for model, entry in entries.items():
            cells = [cell(data_set, column, entry) for column in range(len(METRICS))]
            yield f"| {model} | {len(entry['seeds'])} | " + " | ".join(cells) + " |"
        published = {"BSARec, published mean": BSAREC[data_set]}
        for name, runs in SINGLE_RUNS.items():
            if data_set in runs:
                published[f"{name}, one published run, width 64"] = runs[data_set]
        published["best single figure published before KERec"] = BEST_SINGLE[data_set]
        for name, figures in published.items():
            yield f"| *{name}* | | " + " | ".join(f"{value:.4f}" for value in figures) + " |"
    yield ""
    yield from verdict(quality)


def cell(data_set: str, column: int, entry: Entry) -> str:
    """Returns a figure with its deviation, marked if it is above the published ones."""
    mean = entry["mean"][column]
    text = f"{mean:.4f}" + (f" ± {entry['sd'][column]:.4f}" if len(entry["seeds"]) > 1 else "")
    if mean > max(BSAREC[data_set][column], BEST_SINGLE[data_set][column]):
        return f"**{text}†**"
    return f"**{text}**" if mean > BSAREC[data_set][column] else text


def verdict(quality: Quality) -> Iterator[str]:
    """Yields how many of our cells are above the published figures, and names the others."""
    for name, published in (
        ("BSARec's published means", BSAREC),
        ("the best single figures published before KERec", BEST_SINGLE),
        ("KERec's single published runs", SINGLE_RUNS["KERec"]),
    ):
        gaps = {
            f"{data_set} {metric}": mean - bar
            for data_set, entries in quality.items()
            if OWN in entries
            for metric, mean, bar in zip(
                METRICS, entries[OWN]["mean"], published[data_set], strict=True
            )
        }
        short = [f"{where} ({gap:+.4f})" for where, gap in gaps.items() if gap <= 0]
        yield f"{OWN} is above {name} in {len(gaps) - len(short)} of {len(gaps)} cells."
        if short:
            yield f"Not above: {', '.join(short)}."
        yield ""
