"""How engines start: forked from a process that has their libraries imported, where that can be."""

import asyncio
import ctypes
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from service.processes.child import Child, EngineConfig
from service.processes.forked import ForkedProcess

log = logging.getLogger(__name__)

ENGINE = "service.processes.engine_process"
PRELOADER = "service.processes.preloader"

SET_CHILD_SUBREAPER = 36
"""A command of Linux's prctl: orphans among the descendants become children of this process."""
NUMBER_BYTES = 20
IMPORT_SECONDS, FORK_SECONDS = 120.0, 2.0
"""Longest wait for the first engine that the preloader forks, and for a later one."""
GPU_DRIVER = Path("/dev/nvidiactl")


class EngineStarter:
    """Starts engines. The first start begins a preloader, which forks them."""

    def __init__(self, device: str) -> None:
        """Takes the device that engines compute on."""
        self._forks = can_fork(device)
        self._preloader: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._imported = False  # whether the preloader has forked
        self._forking = asyncio.Lock()

    async def start(self, config: EngineConfig) -> Child:
        """Starts an engine."""
        files = config.listener, config.status
        if self._forks:
            async with self._forking:
                process = await self._fork(files)
            if process:
                return Child.begin(ENGINE, process, config)
            log.warning("an engine starts by itself, and takes a few seconds longer")
        return await Child.start(ENGINE, config, files)

    async def end(self) -> None:
        """Ends the preloader; engines go on."""
        preloader, self._preloader = self._preloader, None
        if self._channel:
            self._channel.close()
        if preloader and preloader.returncode is None:
            preloader.kill()
            await preloader.wait()

    async def _fork(self, files: Sequence[int]) -> ForkedProcess | None:
        """Has the preloader fork; returns None if it does not."""
        if not self._preloader:
            await self._begin()
        ours, theirs = socket.socketpair()
        with theirs:
            number = await self._ask([theirs.fileno(), *files])
        if not number:
            ours.close()
            return None
        return await ForkedProcess.at(number, ours)

    async def _ask(self, files: Sequence[int]) -> int:
        """Returns the number of the process that the preloader has forked; 0 if there is none.

        A preloader that does not answer is replaced for the next engine. Nobody waits until that
        one has imported the libraries: an engine that starts by itself is as fast.
        """
        assert self._channel
        answer = b""
        try:
            async with asyncio.timeout(FORK_SECONDS if self._imported else IMPORT_SECONDS):
                socket.send_fds(self._channel, [b"\0"], files)
                answer = await asyncio.get_running_loop().sock_recv(self._channel, NUMBER_BYTES)
        except OSError:  # it is late, or gone
            pass
        finally:
            if not answer:  # a late one would be taken for that to the next question
                await self.end()
        self._imported = bool(answer)
        if not answer:
            with suppress(OSError):  # the next start tries again
                await self._begin()
        return int(answer or 0)

    async def _begin(self) -> None:
        # Where this is forbidden, the end of an engine is seen all the same, but not its status.
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        with theirs:
            self._preloader = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", PRELOADER, str(theirs.fileno()), ENGINE),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C goes to the supervisor
            )


def can_fork(device: str) -> bool:
    """Returns whether engines may be forked.

    It takes Linux, and no GPU: its driver does not allow for a fork once a library has asked it.
    """
    if sys.platform != "linux" or device.startswith("cuda"):
        return False
    if device == "auto" and GPU_DRIVER.exists():
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))  # old kernels and some sandboxes have none
    except OSError:
        return False
    return True
