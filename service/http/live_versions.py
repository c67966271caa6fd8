"""The versions that answer recalls: the served one, and those that arms of experiments name.

A user of an arm that names a version is answered by it, or as if there were no experiment: while
the version is not loaded, or its engine is replaced, the served version answers such a recall, the
answer names no arm, and no exposure is logged. So an exposure always is of the version of its arm.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pydantic import BaseModel, Field

from service.batcher import Batcher, Worker
from service.errors import FieldError, Invalid, NotReady
from service.experiments.assignment import Assignment
from service.http.engine import Engine
from service.recall.served_bundle import ServedBundle
from service.recall.types import Query
from service.waiting import Answer


class ArmVersion(BaseModel):
    """A version that an arm of an experiment names."""

    version: str
    loaded: bool = Field(description="whether it answers recalls; if not, the served version does")
    problem: str | None = Field(
        description="why it is not loaded; null: it is, or an engine is loading it"
    )


class LiveVersion(NamedTuple):
    """A version that answers recalls."""

    bundle: ServedBundle
    batcher: Batcher


class LiveVersions:
    """Chooses who answers a recall. Each version has a batcher, and a queue, of its own."""

    def __init__(
        self, engine: Engine, served: Batcher, batcher_of: Callable[[Worker], Batcher]
    ) -> None:
        """Takes the batcher of the served version, and how to make one for another engine."""
        self._engine = engine
        self._served = served
        self._batcher_of = batcher_of
        self._batchers: dict[str, Batcher] = {}

    def answers(self, version: str) -> bool:
        """Returns whether recalls that need this version can be answered by it now."""
        served, arm = self._engine.bundle, self._engine.arms.get(version)
        return (served is not None and served.version == version) or (
            arm is not None and not arm.problem()
        )

    def of(self, arms: Iterable[Assignment]) -> LiveVersion:
        """Returns the version that answers users of these arms.

        Raises NotReady before there is one.
        """
        for one in arms:
            if (version := one.settings.version) and (found := self._of_arm(version)):
                return found
        if not self._engine.bundle:
            raise NotReady(self._engine.problem())
        return LiveVersion(self._engine.bundle, self._served)

    def named(self, version: str) -> LiveVersion:
        """Returns this version. Raises Invalid if it does not answer recalls."""
        served = self.of(())
        found = served if served.bundle.version == version else self._of_arm(version)
        if found is None:
            answering = ", ".join(bundle.version for bundle in self.bundles())
            words = f"this version does not answer recalls; these do: {answering}"
            raise Invalid(f"version: {words}", [FieldError("version", words)])
        return found

    def bundles(self) -> Iterator[ServedBundle]:
        """Yields the bundles that answer recalls, the served one first."""
        for one in (self._engine, *self._engine.arms.values()):
            if one.bundle:
                yield one.bundle

    def bundle_of(self, version: str) -> ServedBundle | None:
        """Returns the bundle of a version if it answers recalls."""
        return next((one for one in self.bundles() if one.version == version), None)

    def arm_versions(self) -> list[ArmVersion]:
        """Tells of the versions that arms name."""
        problems = self._engine.arm_problems
        return [
            ArmVersion(version=one, loaded=bool(self.bundle_of(one)), problem=problems.get(one))
            for one in sorted(self._engine.wanted)
        ]

    def alive(self) -> bool:
        """Returns whether all batchers can still answer."""
        return self._served.alive() and all(one.alive() for one in self._batchers.values())

    async def drain_arm(self, version: str) -> None:
        """Answers the recalls that were accepted for an arm's version, and accepts no more."""
        if batcher := self._batchers.pop(version, None):
            await batcher.drain()

    async def drain(self) -> None:
        """Answers the recalls that were accepted, accepts no more, and stops."""
        await asyncio.gather(*(self.drain_arm(version) for version in list(self._batchers)))
        await self._served.drain()

    def _of_arm(self, version: str) -> LiveVersion | None:
        """Returns a version that is not the served one, if it is loaded."""
        arm = self._engine.arms.get(version)
        if not arm or not arm.bundle:
            return None
        if version not in self._batchers:
            self._batchers[version] = self._batcher_of(arm)
            self._batchers[version].start()
        return LiveVersion(arm.bundle, self._batchers[version])


async def recall_all(
    queries: Sequence[tuple[Query, bool]],
    chosen: Sequence[LiveVersion],
    patience: float | None,
    client: str,
) -> list[Answer]:
    """Returns the answers to several queries, each of the version that was chosen for it.

    See `Batcher.recall_all`.
    """
    places: dict[Batcher, list[int]] = {}
    for at, version in enumerate(chosen):
        places.setdefault(version.batcher, []).append(at)
    works = [
        asyncio.create_task(batcher.recall_all([queries[at] for at in part], patience, client))
        for batcher, part in places.items()
    ]
    try:
        found = await asyncio.gather(*works)
    finally:
        for work in works:
            work.cancel()
    answers: dict[int, Answer] = {}
    for part, some in zip(places.values(), found, strict=True):
        answers |= dict(zip(part, some, strict=True))
    return [answers[at] for at in range(len(queries))]
