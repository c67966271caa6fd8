"""How the supervisor and a child process start, report and end together.

    supervisor ── standard input: the configuration, then changes, lines of JSON ─► child
               ◄─ standard output: ready or failed, then reports, lines of JSON ───

Both pipes stay open as long as the two processes live. The supervisor reads the end of a child from
the process itself. The child reads the end of the supervisor from its standard input, which the
kernel closes however the supervisor ends, kill -9 included: so no child outlives it, and a front
end removes the folder that a killed supervisor leaves behind. The configuration goes this way
because the store's URL may hold a password, and other users of a machine can see arguments.

The supervisor imports this module, so it loads no library that computes or speaks HTTP.
"""

import asyncio
import gc
import logging
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol, Self, TypeVar

from pydantic import BaseModel

from service.settings import ServeSettings

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""Time that a child has to end after SIGTERM, before it is killed."""

MIN_FILES = 256
"""Open files without which a process of the service cannot begin."""

C = TypeVar("C", bound=BaseModel)


class EngineConfig(BaseModel, frozen=True):
    """The configuration of an engine. Files are descriptors that it inherits."""

    settings: ServeSettings
    artifacts: Path
    """The artifact store, or one bundle."""
    listener: int
    """The socket to which front ends connect."""
    status: int
    """The file of its `ServiceStatus`."""
    lane: int = 0
    """The lane of the file that is its own."""
    beside_another: bool = False
    """Whether another engine answers while this one loads."""
    standby: bool = False
    """Whether it waits, once it has loaded and said so, until it is told to `TakeOver`; then it
    reports once more that it is ready."""


class TakeOver(BaseModel, frozen=True):
    """The message that has an engine on standby answer."""


class EngineAddress(BaseModel, frozen=True):
    """The place of the engine that serves a version, and of the one that replaces it."""

    path: str
    """Path of its socket."""
    lane: int = 0
    """The lane of `ServiceStatus` in which it beats."""


class Serving(BaseModel, frozen=True):
    """The state of versions, which the supervisor tells every front end: a line for each change."""

    engine: EngineAddress
    """The engine to ask."""
    problem: str = ""
    """The reason why the version that is to be served is not; empty if it is."""
    loading: str = ""
    """The version that is being taken up in place of the served one; empty if there is none."""
    looks: int = 0
    """The number of times that somebody has asked for a look at `current` and had it."""
    arms: dict[str, EngineAddress] = {}
    """The engines to ask for users of an arm that names a version, by version."""
    arm_problems: dict[str, str] = {}
    """The reason why a version that an arm names is not loaded, by version."""


class FrontEndConfig(BaseModel, frozen=True):
    """The configuration of a front end. Files are descriptors that it inherits."""

    settings: ServeSettings
    listener: int
    """The socket to which clients connect."""
    admin_listener: int | None
    """The socket of the port for operations of the scope admin, if they have one of their own."""
    serving: Serving
    """The engine to ask. The folder of its socket lies in the supervisor's own folder."""
    status: int
    """The file of the engine's `ServiceStatus`."""
    counters: int
    """The file of the shared counters, with a row for each front end."""
    row: int


class Report(BaseModel, frozen=True):
    """A child's message to the supervisor. The first one says whether it can do its work."""

    failure: str = ""
    """The reason why it cannot start; empty if it is ready."""
    bundle: Path | None = None
    """The bundle that an engine has loaded."""
    engines: list[str] = []
    """Paths of the sockets of the engines that a front end asks from now on, and no others."""
    versions: list[str] = []
    """The versions that arms of experiments name, as that front end has read the file."""
    look: bool = False
    """Whether the supervisor is asked to look now for another version to serve."""


class Process(Protocol):
    """The parts of `asyncio.subprocess.Process` by which a child is known."""

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """Its input."""

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Its output."""

    @property
    def returncode(self) -> int | None:
        """Its status; None until it ends."""

    async def wait(self) -> int:
        """Waits for its end, and returns its status."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> None:
        """Sends SIGKILL."""


class Child:
    """A child process as the supervisor sees it."""

    def __init__(self, module: str, process: Process) -> None:
        self._module = module
        self._process = process

    @classmethod
    async def start(cls, module: str, config: BaseModel, files: Sequence[int]) -> Self:
        """Starts a module, which inherits the files."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=files,
            start_new_session=True,  # Ctrl-C goes to the supervisor, which drains its children
        )
        return cls.begin(module, process, config)

    @classmethod
    def begin(cls, module: str, process: Process, config: BaseModel) -> Self:
        """Gives a process that runs a module its configuration."""
        child = cls(module, process)
        child.tell(config)
        return child

    async def report(self) -> Report:
        """Waits until the child is ready. Raises ChildProcessError if it fails or ends instead."""
        if line := await self._next_line():
            report = Report.model_validate_json(line)
        else:
            status = await self._process.wait()
            failure = f"{self._module} ended with status {status} while it started: see above"
            report = Report(failure=failure)
        if report.failure:
            raise ChildProcessError(report.failure)
        return report

    async def next_report(self) -> Report | None:
        """Waits for a report of a child that is ready; returns None once the child has ended."""
        line = await self._next_line()
        return Report.model_validate_json(line) if line else None

    async def _next_line(self) -> bytes:
        """Waits for a line of output; returns nothing once the child has ended."""
        assert self._process.stdout
        try:
            return await self._process.stdout.readline()
        except ConnectionError:  # a socket, and the child was killed with messages unread
            return b""

    def tell(self, message: BaseModel) -> None:
        """Sends a message to a child, unless it has ended."""
        if not self.has_ended and self._process.stdin:
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")

    async def ended(self) -> int:
        """Waits for the end of the process, and returns its status."""
        return await self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.returncode is not None

    def terminate(self) -> None:
        """Sends SIGTERM, unless the process has ended."""
        if not self.has_ended:
            self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL, unless the process has ended."""
        if not self.has_ended:
            self._process.kill()

    async def end(self) -> None:
        """Ends the process, by SIGKILL if SIGTERM does not do it in time."""
        self.terminate()
        try:
            await asyncio.wait_for(self.ended(), END_SECONDS)
        except TimeoutError:
            self.kill()
            await self.ended()


class Supervision:
    """The supervisor as a child process sees it; to be made first of all in the child."""

    def __init__(self) -> None:
        signal.signal(signal.SIGTERM, _exit_once)
        self._early: list[bytes] = []  # messages that came before somebody took them
        self._take: Callable[[bytes], None] = self._early.append
        self._taking = threading.Lock()
        self._input = open(0, "rb", closefd=False)  # noqa: SIM115 — stays open
        self._reports = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # the output of libraries must not be read as a report

    def config(self, kind: type[C]) -> C:
        """Returns the configuration. From now on this process ends with the supervisor."""
        config = kind.model_validate_json(self._input.readline())
        folder = None
        if isinstance(config, FrontEndConfig):
            folder = Path(config.serving.engine.path).parent.parent
        threading.Thread(target=self._end_with_supervisor, args=(folder,), daemon=True).start()
        return config

    def on_message(self, take: Callable[[bytes], None]) -> None:
        """Has every message of the supervisor taken by a function, called in another thread."""
        with self._taking:
            for line in self._early:
                take(line)
            self._take = take

    def report(self, report: Report) -> None:
        """Sends a report, the first of which says that this process can do its work."""
        with suppress(BrokenPipeError):  # if the supervisor is gone, this process is about to end
            print(report.model_dump_json(), file=self._reports, flush=True)

    def fail(self, reason: object) -> NoReturn:
        """Reports why this process cannot start, and ends it."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already
        self.report(Report(failure=str(reason)))
        sys.exit(1)

    def _end_with_supervisor(self, folder: Path | None) -> None:
        """Ends this process when the supervisor is gone; removes its folder, if one is given."""
        for line in self._input:
            with self._taking:
                self._take(line)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        log.critical("the supervisor is gone, so this process ends")
        os._exit(1)  # at once: the main thread may hang


def _exit_once(*_: object) -> NoReturn:
    """Handles SIGTERM; a second one would interrupt the functions that run at exit."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def name_process(name: str) -> None:
    """Sets the name by which `top` and `ps -o comm` show this process; 15 characters of it."""
    with suppress(OSError):  # other systems than Linux
        Path("/proc/self/comm").write_text(name)


def freeze_loaded() -> None:
    """Exempts all objects that are loaded from garbage collection, and collects less often.

    Walking through vocabularies and modules again and again took half of the time of an answer
    with 64 connections, in pauses of 0.2 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def allow_many_files() -> None:
    """Raises the soft limit of open files, of which every connection takes one, to the hard one.

    Some systems set it to 1,024, which slow clients could use up for all others. Raises ValueError
    if the hard limit is too low to begin.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        raise ValueError(
            f"only {hard} files may be open at a time, and each connection takes one: raise the "
            "hard limit to 65,536 (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
