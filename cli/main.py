"""Entry point of `recgpt`: finds the command, parses its options, runs it, explains its errors.

A command's module is imported only if the command is called, and what a command works with only
inside its `run`, so that help and the service's light parent process load little.
"""

import inspect
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from model.libraries import set_up_libraries

if TYPE_CHECKING:
    from cli.config import Command
    from cli.sources import Options

log = logging.getLogger("recgpt")

COMMANDS = {
    "data fetch": "cli.data:Fetch",
    "data prepare": "cli.data:Prepare",
    "train": "cli.train:Train",
    "report": "cli.train:Report",
    "export": "cli.bundle:Export",
    "items add": "cli.bundle:AddItems",
    "refresh": "cli.refresh:Refresh",
    "publish": "cli.versions:Publish",
    "versions": "cli.versions:Versions",
    "rollback": "cli.versions:Rollback",
    "follow": "cli.versions:Follow",
    "prune": "cli.versions:Prune",
    "evaluate": "cli.evaluate:Evaluate",
    "evaluate new-users": "cli.evaluate:EvaluateNewUsers",
    "evaluate interests": "cli.evaluate:EvaluateInterests",
    "evaluate runs": "cli.evaluate:EvaluateRuns",
    "evaluate inputs": "cli.evaluate:EvaluateInputs",
    "evaluate rounds": "cli.evaluate:EvaluateRounds",
    "history load": "cli.serve:LoadHistory",
    "serve": "cli.serve:Serve",
    "events export": "cli.experiment:ExportEvents",
    "experiment plan": "cli.experiment:ExperimentPlan",
    "experiment simulate": "cli.experiment:ExperimentSimulate",
    "experiment report": "cli.experiment:ExperimentReportCommand",
    "demo": "cli.demo:Demo",
    "doctor": "cli.doctor:Doctor",
}
"""Module and class of every command, in the order of `recgpt --help`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that `arguments` (default: those of the process) name.

    Exits with 2 for a wrong command line, 1 if the command fails, 130 on Ctrl-C, and 141 if the
    reader of the output has gone, as in `recgpt --help | head -1`.
    """
    set_up_libraries()
    try:
        try:
            _call(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            print(end="", flush=True)  # the interpreter's own flush would end in a traceback
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(141)  # 128 + SIGPIPE, as shells report it
        print(f"recgpt: standard output can't be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def command_class(name: str) -> type["Command"]:
    """Returns the class of the command `recgpt NAME`; imports its module."""
    module, _, class_name = COMMANDS[name].partition(":")
    found: type[Command] = getattr(import_module(module), class_name)
    return found


def all_options() -> "Options":
    """Returns the options of all commands as one tree."""
    from cli.sources import options_of

    found: Options = {}
    for name in COMMANDS:
        found |= options_of(command_class(name))
    return found


def overview() -> str:
    """Returns the text of `recgpt --help`: a line a command."""
    lines = [f"recgpt {package_version('recgpt')}: candidate generation for recommenders", ""]
    for name in COMMANDS:
        summary = inspect.cleandoc(command_class(name).__doc__ or "").splitlines()[0]
        lines.append(f"  recgpt {name:<20}{summary}")
    return "\n".join([*lines, "", "`recgpt COMMAND --help` lists the options of a command."])


def _call(words: Sequence[str]) -> None:
    """Finds the command that the words name and runs it."""
    matching = [name for name in COMMANDS if words[: len(name.split())] == name.split()]
    name = max(matching, key=len, default=None)
    if words == ["--version"]:
        print(f"recgpt {package_version('recgpt')}")
    elif name is None:
        asked = words in (["--help"], ["-h"])
        print(overview(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    else:
        _run(name, words[len(name.split()) :])


def _run(name: str, words: Sequence[str]) -> None:
    """Parses the options of a command and runs it."""
    from cli.config import check_names, parse
    from cli.sources import UsageError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("faiss", "matplotlib"):  # they tell of every variant or font that they try
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        check_names(command_class(name), words, all_options)
        parse(command_class(name), name, words).run()
    except BrokenPipeError:
        raise
    except UsageError as error:
        print(f"recgpt {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError) as error:
        log.debug("the command failed", exc_info=True)
        print(f"recgpt {name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
