"""Commands that say which version is served: `recgpt publish`, `versions`, `rollback` …"""

import logging
import time
from pathlib import Path

from pydantic import Field

from cli.config import Command
from model.artifact.registry import MlflowAlias, RegistryConfig, follow, publisher

log = logging.getLogger(__name__)


def published(folder: Path) -> str:
    """Returns what happens now that a version has become the served one."""
    return f"{folder} is the served version now; a running service changes over to it"


class Publish(Command, RegistryConfig):
    """Verify a bundle, copy it into the folder of the bundles, and make it the served version.

    The copy is complete and verified before the served version changes. A running service loads it
    beside the old one and changes over without a restart.

    examples:
      recgpt publish --bundle build/movies-20260105-120000-0a1b2c3d --artifacts artifacts
      recgpt publish --bundle build/movies-20260105-120000-0a1b2c3d --artifacts artifacts \\
        --registry mlflow
    """

    bundle: Path = Field(description="folder of one bundle, here or on another disk")
    artifacts: Path = Field(description="folder of the bundles")

    def run(self) -> None:
        """Publishes the bundle and prints its folder."""
        from model.artifact.versions import publish_bundle

        version = publish_bundle(self.artifacts, self.bundle, publisher(self))
        print(published(self.artifacts / version))


class Versions(Command):
    """List the versions in a folder of bundles, the latest last; `*` marks the served one.

    example:
      recgpt versions --artifacts artifacts
    """

    artifacts: Path = Field(description="folder of the bundles")

    def run(self) -> None:
        """Prints a table."""
        from model.artifact.versions import list_versions

        found = list_versions(self.artifacts)
        if not found:
            raise ValueError(f"{self.artifacts} holds no version: make one with `recgpt export`")
        print(_line(" ", "version", "created", "published", "items", "MB", ""))
        for one in found:
            mark, size = "*" if one.served else " ", f"{one.bytes / 1e6:.1f}"
            when = one.published or "never"
            print(_line(mark, one.version, one.created, when, f"{one.items:,}", size, one.problem))


class Rollback(Command, RegistryConfig):
    """Make an earlier version the served one again: the one before, or the one that is named.

    examples:
      recgpt rollback --artifacts artifacts
      recgpt rollback --artifacts artifacts --version movies-20260105-120000-0a1b2c3d
    """

    artifacts: Path = Field(description="folder of the bundles")
    version: str | None = Field(
        None, description="version to serve (default: the one that was served before)"
    )

    def run(self) -> None:
        """Moves the served version and prints it."""
        from model.artifact.versions import roll_back

        version = roll_back(self.artifacts, self.version, publisher(self))
        print(published(self.artifacts / version))


class Follow(Command, RegistryConfig):
    """Serve the version that an alias in a registry names, and follow the alias.

    Run it beside the service, which changes over as after `recgpt publish`. It ends on SIGTERM.

    example:
      MLFLOW_TRACKING_URI=http://mlflow:5000 recgpt follow --registry mlflow --artifacts artifacts
    """

    artifacts: Path = Field(description="folder of the bundles")
    every_seconds: float = Field(10, ge=0.1, le=3600, description="time between two looks")
    once: bool = Field(False, description="look once; exit with 1 if that fails")

    def run(self) -> None:
        """Moves the served version until the process ends."""
        if self.registry is None:
            raise ValueError("name the registry to follow: --registry mlflow")
        alias = MlflowAlias(self.registry_model, self.registry_alias)
        told = ""
        while True:
            try:
                if version := follow(self.artifacts, alias):
                    print(published(self.artifacts / version), flush=True)
                told = ""
            except ValueError as error:
                if self.once:
                    raise
                if told != str(error):  # once for each problem
                    told = str(error)
                    log.error("the served version stays: %s", told)
            if self.once:
                return
            time.sleep(self.every_seconds)


class Prune(Command):
    """Delete old versions. The served one stays in any case.

    example:
      recgpt prune --artifacts artifacts --keep 5
    """

    artifacts: Path = Field(description="folder of the bundles")
    keep: int = Field(ge=1, description="number of versions to keep, those that came last")

    def run(self) -> None:
        """Deletes versions and prints them."""
        from model.artifact.versions import prune

        deleted = prune(self.artifacts, self.keep)
        for version in deleted:
            print(f"deleted {version}")
        print(f"{len(deleted)} versions deleted")


def _line(mark: str, version: str, *rest: str | None) -> str:
    created, published, items, size, problem = (word or "" for word in rest)
    line = f"{mark} {version:<44}  {created:<25}  {published:<25}  {items:>9}  {size:>8}  {problem}"
    return line.rstrip()
