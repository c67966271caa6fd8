"""Logs that are written and prepared in one line."""

from pathlib import Path
from typing import Any

from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import Report, prepare


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def run(source: Path, **options: Any) -> tuple[Report, Dataset]:
    """Prepare without a k-core, unless the options say one."""
    out = source.parent.parent / f"{source.parent.name}-out" / source.name
    defaults = {"input": source, "out": out, "min_user_events": 0, "min_item_events": 0}
    report = prepare(PrepareConfig(**(defaults | options)))
    return report, Dataset.load(options.get("out", out))


def histories(dataset: Dataset) -> dict[str, list[str]]:
    return {
        user: [dataset.item_ids[row] for row in dataset.history(number)]
        for number, user in enumerate(dataset.user_ids)
    }


def malformed(report: Report) -> dict[str, int]:
    return {reason: bad.count for reason, bad in report.malformed.items()}
