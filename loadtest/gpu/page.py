"""The results of `loadtest.gpu.check` as one page of Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.results import number


def page(report: dict[str, Any]) -> str:
    """Returns the page: the machine, a line per step, and the figures of each step."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    faiss_part = "with" if report["faiss_gpu_part"] else "without"
    yield "# GPU check"
    yield ""
    yield f"`{report['command']}`"
    yield ""
    yield (
        f"Device: **{report['device_name']}**. {report['machine']}; Python {report['python']}, "
        f"torch {report['torch']}, Faiss {report['faiss']} {faiss_part} its GPU part; "
        f"{report['date']}; commit {report['commit']}."
    )
    if report["device"] == "cpu":
        yield ""
        yield "This is a dry run on the CPU in small. Its figures say nothing about a GPU."
    yield ""
    yield from table(
        [
            {
                "step": result["title"],
                "ran on": result["device"],
                "status": result["status"],
                "seconds": round(result["seconds"]),
            }
            for result in report["steps"].values()
        ]
    )
    for result in report["steps"].values():
        yield from _step(result)


def _step(result: dict[str, Any]) -> Iterator[str]:
    figures = result.get("figures", {})
    yield ""
    yield f"## {result['title']}"
    about = {name: value for name, value in figures.items() if name not in ENVIRONMENT}
    if about:
        yield ""
        yield "; ".join(f"{name}: {text(value)}" for name, value in about.items()) + "."
    if rows := figures.get("rows"):
        yield ""
        yield from table(rows)
    if not figures or result["status"] != "passed":
        yield ""
        yield f"{result['status'].capitalize()}. The last lines of its output:"
        yield ""
        yield "```text"
        yield from result.get("last_lines", [])
        yield "```"


ENVIRONMENT = ("rows", "machine", "python", "date", "commit", "command")


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields a Markdown table whose columns are the keys of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(text(row.get(column, "")) for column in columns) + " |"


def text(value: Any) -> str:
    """Returns a value as it stands in a table."""
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
