"""The engine process as the HTTP operations see it."""

from typing import Protocol

from service.batcher import Worker
from service.recall.served_bundle import ServedBundle


class Engine(Worker, Protocol):
    """A worker that tells what it serves, and whether it can."""

    @property
    def bundle(self) -> ServedBundle | None:
        """The bundle whose items are recalled; None until an engine has loaded one."""

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""

    @property
    def version_problem(self) -> str:
        """The reason why the version that is to be served is not; empty if it is."""

    def look(self) -> None:
        """Has the service look now whether another version is to be served."""

    def problem(self) -> str:
        """Returns why the engine cannot answer now; empty if it can."""

    def alive(self) -> bool:
        """Returns whether there is an engine, or will be soon."""
