"""The preloader: it has imported all that an engine needs, and forks engines.

    supervisor ── a message with the files of an engine ─► preloader ── fork ─► engine
               ◄─ the number of the engine's process ─────────┘

The libraries of an engine take longer to import than most bundles to load, and as much memory as a
small bundle. An engine that is forked has them at once, and shares the memory with all others. The
preloader runs one thread and computes nothing, so that no lock is held while it forks.

The supervisor becomes the parent of an engine, so that it learns how that ends: an engine is forked
by a process that ends at once, and the supervisor adopts the orphans among its descendants
(`service.processes.engine_starter`).
"""

import gc
import importlib
import os
import socket
import sys
import warnings
from contextlib import suppress

from service.processes.child import name_process

FILES = 3
"""Files of an engine: the socket to the supervisor, then those of its `EngineConfig`."""
NUMBER_BYTES = 20


def main() -> None:
    """Imports the module of an engine, and forks engines until the supervisor is gone."""
    name_process("recgpt-preload")
    supervisor = socket.socket(fileno=int(sys.argv[1]))
    run_engine = importlib.import_module(sys.argv[2]).main
    # What is here lives for ever. Nothing marks it, so that its memory stays shared.
    gc.collect()
    gc.freeze()
    while True:
        message, files, *_ = socket.recv_fds(supervisor, 1, FILES)
        if not message:
            return
        number = fork_orphan()
        if number is None:
            supervisor.close()
            take_input_and_output(files[0])
            run_engine(*files[1:])
            return
        with suppress(BrokenPipeError):
            supervisor.send(b"%d" % number)
        for file in files:
            os.close(file)


def fork_orphan() -> int | None:
    """Forks a process whose parent ends at once; returns its number, 0 if there cannot be one.

    Returns None in that process.
    """
    read, write = os.pipe()
    try:
        middle = _fork()
    except OSError:
        middle = -1
    if middle:
        os.close(write)
        if middle > 0:
            os.waitpid(middle, 0)
        number = os.read(read, NUMBER_BYTES)
        os.close(read)
        return int(number or 0)
    with suppress(OSError):
        if not (orphan := _fork()):
            os.close(read)
            os.close(write)
            return None
        os.write(write, b"%d" % orphan)
    os._exit(0)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # since Python 3.12, of the idle threads of OpenBLAS
        return os.fork()


def take_input_and_output(file: int) -> None:
    """Has this process speak with the supervisor by a socket."""
    os.dup2(file, 0)
    os.dup2(file, 1)
    os.close(file)


if __name__ == "__main__":
    main()
