"""`recgpt refresh`: a new version from the newest events, published if it is no worse."""

import sys

from cli.config import Command, log_above_bars
from service.refresh.config import RefreshConfig

EXIT_CODES = {"published": 0, "refused": 3, "nothing new": 4}
LOCKED = 5


class Refresh(Command, RefreshConfig):
    """Train on the newest events, and publish the new version if it passes the gate.

    Exit codes: 0 published, 3 refused by the gate, 4 nothing new, 5 another refresh runs, 1 error.
    A call that was killed is continued by the next one.

    examples:
      recgpt refresh --artifacts artifacts --work refresh --store redis://localhost:6379/0
      recgpt refresh --artifacts artifacts --work refresh --log logs/ --full
    """

    def run(self) -> None:
        """Prints the outcome in one sentence, and exits with its code unless it is 0."""
        from service.refresh.rounds import RefreshLocked, refresh

        try:
            with log_above_bars():
                outcome = refresh(self)
        except RefreshLocked as error:
            print(f"recgpt refresh: {error}", file=sys.stderr)
            sys.exit(LOCKED)
        print(outcome.sentence)
        print(f"the report is {self.work / 'reports' / outcome.round}.html")
        if code := EXIT_CODES[outcome.result]:
            sys.exit(code)
