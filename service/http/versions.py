"""The operations that concern versions of the bundle."""

import asyncio
import logging

from fastapi import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from model.artifact.manifest import ArtifactError
from model.artifact.versions import Version, list_versions
from service.errors import NotReady, VersionRefused
from service.http.engine import Engine
from service.http.live_versions import ArmVersion, LiveVersions
from service.settings import ServeSettings

log = logging.getLogger(__name__)

MAX_VERSIONS = 100
"""Versions that one answer lists, the latest ones."""


class VersionsResponse(BaseModel):
    """The version that answers recalls, and those that could."""

    serving: str = Field(description="version of the bundle that answers recalls")
    loading: str | None = Field(
        description="version that is being taken up in its place; null if there is none"
    )
    problem: str | None = Field(
        description="why another version, which is to be served, is not; null if there is none"
    )
    versions: list[Version] = Field(
        description="the versions beside it, in the order of publication; empty if the service was "
        "given a single bundle"
    )
    arms: list[ArmVersion] = Field(
        description="versions that arms of experiments name, and whether they answer recalls"
    )


class ReloadResponse(BaseModel):
    """The outcome of a look for another version."""

    serving: str = Field(description="version of the bundle that answers recalls")
    loading: str | None = Field(
        description="version that will take its place once it has loaded; null: the served version "
        "is the one that is to be served, or, in an answer 202, the service looks later, since it "
        "is loading a version for an arm of an experiment"
    )


class VersionRoutes:
    """The operations that concern versions."""

    def __init__(self, settings: ServeSettings, engine: Engine, live: LiveVersions) -> None:
        self._artifacts = settings.artifacts
        self._engine = engine
        self._live = live

    async def versions(self) -> Response:
        """Tells which version answers, why another one does not, and which ones there are."""
        bundle = self._engine.bundle
        if not bundle:
            raise NotReady(self._engine.problem())
        found = VersionsResponse(
            serving=bundle.version,
            loading=self._engine.loading or None,
            problem=self._engine.version_problem or None,
            versions=await asyncio.to_thread(self._list),
            arms=self._live.arm_versions(),
        )
        return Response(to_json(found), media_type="application/json")

    async def reload(self) -> Response:
        """Looks now for another version to serve, and tries arms' versions again.

        Answers 202 if another version is being taken up: `GET /versions` tells when it is served,
        and why not otherwise. Answers 409, with the reason, if it cannot be loaded.
        """
        log.info("a look for another version was asked for")
        looked = await self._engine.look()
        bundle, loading = self._engine.bundle, self._engine.loading
        if not bundle:
            raise NotReady(self._engine.problem())
        if looked and not loading and self._engine.version_problem:
            raise VersionRefused(f"the old version stays: {self._engine.version_problem}")
        found = ReloadResponse(serving=bundle.version, loading=loading or None)
        status = 202 if loading or not looked else 200
        return Response(to_json(found), status, media_type="application/json")

    def _list(self) -> list[Version]:
        try:
            return list_versions(self._artifacts)[-MAX_VERSIONS:]
        except ArtifactError:  # the folder is gone, and the service goes on without it
            return []
