"""Stands in for the engine's process, without its libraries: it says what it has, and ends."""

import os
import threading

from service.processes.child import EngineConfig, Supervision


def main(listener_file: int | None = None, status_file: int | None = None) -> None:
    supervision = Supervision()
    config = supervision.config(EngineConfig)
    listener = config.listener if listener_file is None else listener_file
    status = config.status if status_file is None else status_file
    if config.standby:
        supervision.on_message(lambda line: os._exit(3))
        threading.Event().wait()
    size = os.fstat(status).st_size
    supervision.fail(f"{os.readlink(f'/proc/self/fd/{listener}')} and {size} bytes")


if __name__ == "__main__":
    main()
