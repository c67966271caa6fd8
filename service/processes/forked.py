"""A process that another one has forked, as the supervisor sees it.

`asyncio.subprocess` starts programs only. This is the same for a process that runs already and
speaks with the supervisor over a socket: its input and output in one.
"""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import Self

UNKNOWN_STATUS = 255


class ForkedProcess:
    """A running process; `service.processes.child.Process` says what it offers."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, stdin: asyncio.StreamWriter) -> None:
        """Watches the process. If it is a child of this one, its status is taken."""
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._file = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._note_end)

    @classmethod
    async def at(cls, pid: int, end: socket.socket) -> Self:
        """Returns the process of this number, which has the other end of a socket."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        transport, protocol = await loop.create_unix_connection(
            lambda: _ClosingProtocol(reader), sock=end
        )
        return cls(pid, reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def wait(self) -> int:
        """Waits for the end of the process, and returns its status as `subprocess` does."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, name: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended, and its parent was another process
            signal.pidfd_send_signal(self._file, name)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._file)
        self.returncode = self._status()
        os.close(self._file)
        self._ended.set()

    def _status(self) -> int:
        try:
            ended = os.waitid(os.P_PIDFD, self._file, os.WEXITED)
        except ChildProcessError:  # another process is its parent
            return UNKNOWN_STATUS
        assert ended
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class _ClosingProtocol(asyncio.StreamReaderProtocol):
    """The protocol of a stream that is closed when the other side has closed it."""

    def eof_received(self) -> bool:
        """Has the transport close, behind what it has read."""
        super().eof_received()
        return False
