"""The end of a harness that is stopped: what it has started ends before it."""

import signal
import threading
from typing import NoReturn

SIGNALS = signal.SIGTERM, signal.SIGHUP


def stop_by_exit() -> None:
    """Has signals end this process by SystemExit, as SIGINT does by KeyboardInterrupt.

    So `finally` clauses run, in which processes are ended that would go on for ever. To be called
    before one is started. A signal that is ignored or handled stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only that one can set handlers
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit_once)


def _exit_once(number: int, _: object) -> NoReturn:
    for other in SIGNALS:  # another one must not disturb the end
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
