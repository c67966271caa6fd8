"""The command `recgpt doctor`."""

import sys
from pathlib import Path

from pydantic import Field

from cli.config import Command


class Doctor(Command):
    """Check machine, bundle, data set and store, and say what to do.

    Each line begins with ok, warning or problem. The status is 1 if there is a problem. Run it as
    the user, in the place and with the environment of the service.

    examples:
      recgpt doctor
      recgpt doctor --artifacts artifacts --store redis://localhost:6379/0 --data data
    """

    artifacts: Path | None = Field(None, description="folder of the bundles to check")
    store: str | None = Field(None, description="store to check: redis://… or embedded:PATH")
    data: Path | None = Field(None, description="prepared data set to check")

    def run(self) -> None:
        """Prints a line for each finding. Exits with 1 if one is a problem."""
        from service.doctor.examination import examine
        from service.doctor.findings import Level

        levels = []
        for level, subject, text in examine(self.artifacts, self.store, self.data):
            levels.append(level)
            print(f"{level:<9}{subject:<17}{text}", flush=True)
        problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
        print(f"problems: {problems}, warnings: {warnings}")
        if problems:
            sys.exit(1)
