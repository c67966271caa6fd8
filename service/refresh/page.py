"""The report of a refresh as one HTML page."""

from collections.abc import Mapping
from pathlib import Path

from model.reports.page import write_page


def write_refresh_page(outcome: Mapping[str, object], out: Path) -> None:
    """Writes the page of an outcome (see `service.refresh.rounds.Outcome`) to `out`."""
    write_page(Path(__file__).with_name("page.html"), out, outcome=outcome)
