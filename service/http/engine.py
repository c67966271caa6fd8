"""The engine process as the HTTP operations see it."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.batcher import Worker
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult

Try = Callable[[Trial], Awaitable[TrialResult]]


class ArmEngine(Worker, Protocol):
    """A worker that recalls items of the version that an arm of an experiment names."""

    @property
    def bundle(self) -> ServedBundle | None:
        """The bundle whose items it recalls."""

    def problem(self) -> str:
        """Returns why it cannot answer now; empty if it can."""


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

    on_arm_gone: Callable[[str], Awaitable[None]]
    """Awaited before the engine of an arm's version ends; it is in `arms` no more."""

    @property
    def arms(self) -> Mapping[str, ArmEngine]:
        """The engines of versions that arms name, by version; not the served version's."""

    @property
    def wanted(self) -> Collection[str]:
        """The versions that arms name."""

    @property
    def arm_problems(self) -> Mapping[str, str]:
        """The reason why a version that an arm names is not loaded, by version."""

    def want(self, versions: Collection[str]) -> None:
        """Has the service keep engines of these versions beside the served one."""

    @property
    def loading(self) -> str:
        """The version that is being taken up in place of the served one; empty if none is."""

    async def look(self) -> bool:
        """Has the service look now whether another version is to be served.

        Returns whether it has; it may have to load another version first.
        """

    def trials(self) -> AbstractAsyncContextManager[Try]:
        """Returns a context that yields a function by which the engine tries its index.

        Raises WorkerLost, also within, if the engine is gone.
        """

    def problem(self) -> str:
        """Returns why the engine cannot answer now; empty if it can."""

    def alive(self) -> bool:
        """Returns whether there is an engine, or will be soon."""
