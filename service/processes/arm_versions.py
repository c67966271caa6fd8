"""The versions that arms of experiments name, each with an engine beside the served one.

    an arm names a version ─► memory is counted ─► an engine loads it at the lowest priority
                           ─► every front end asks that engine for the users of the arm
    no arm names it any more ─► front ends stop asking ─► the engine ends

A version that cannot be loaded stays so until the file of experiments or the served version
changes, or somebody asks for another look. Its users are answered by the served version then.
"""

import logging
from pathlib import Path

from model.artifact.manifest import ArtifactError
from model.artifact.versions import bundle_of
from service.experiments.config import MAX_VERSIONS
from service.processes.engine_keeper import EngineKeeper
from service.processes.engine_pool import EnginePool, VersionUnusable

log = logging.getLogger(__name__)


class ArmVersions:
    """The engines of the versions that arms name, the served one among them."""

    def __init__(self, artifacts: Path, pool: EnginePool) -> None:
        self._artifacts = artifacts
        self._pool = pool
        self._wanted: frozenset[str] = frozenset()
        self.engines: dict[str, EngineKeeper] = {}
        self.problems: dict[str, str] = {}
        """The reason why a version that an arm names is not loaded, by version."""

    def want(self, versions: frozenset[str]) -> bool:
        """Takes the versions that arms name now; returns whether that changes anything.

        Engines that nobody wants any more are left to the caller to end.
        """
        if versions == self._wanted:
            return False
        self._wanted = versions
        self.engines = {name: one for name, one in self.engines.items() if name in versions}
        self.problems.clear()
        return True

    def retry(self) -> None:
        """Has versions tried again that could not be loaded."""
        self.problems.clear()

    def next_missing(self) -> str | None:
        """Returns a version that is wanted, and neither loaded nor known to be unusable."""
        missing = self._wanted - self.engines.keys() - self.problems.keys()
        return min(missing, default=None)

    async def load(self, version: str) -> None:
        """Loads a version, unless an engine has it already; notes why if it cannot be loaded."""
        if engine := self._pool.find(version):
            self.engines[version] = engine
            return
        try:
            if len(self.engines) >= MAX_VERSIONS:  # while front ends read another file
                raise VersionUnusable(f"arms name more than {MAX_VERSIONS} versions")
            bundle = bundle_of(self._artifacts, version).absolute()
            self.engines[version] = await self._pool.load(bundle)
        except (ArtifactError, VersionUnusable) as error:
            self.problems[version] = str(error)
            log.error("an arm's version is not loaded: %s: %s", version, error)
        else:
            log.info("an arm's version is loaded", extra={"version": version})
