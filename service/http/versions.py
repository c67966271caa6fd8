"""The operations that concern versions of the bundle."""

import asyncio

from fastapi import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from model.artifact.manifest import ArtifactError
from model.artifact.versions import Version, list_versions
from service.errors import NotReady
from service.http.engine import Engine
from service.settings import ServeSettings

MAX_VERSIONS = 100
"""Versions that one answer lists, the latest ones."""


class VersionsResponse(BaseModel):
    """The version that answers recalls, and those that could."""

    serving: str = Field(description="version of the bundle that answers recalls")
    problem: str | None = Field(
        description="why another version, which is to be served, is not; null if there is none"
    )
    versions: list[Version] = Field(
        description="the versions beside it, in the order of publication; empty if the service was "
        "given a single bundle"
    )


class VersionRoutes:
    """The operations that concern versions."""

    def __init__(self, settings: ServeSettings, engine: Engine) -> None:
        self._artifacts = settings.artifacts
        self._engine = engine

    async def versions(self) -> Response:
        """Tells which version answers, why another one does not, and which ones there are."""
        bundle = self._engine.bundle
        if not bundle:
            raise NotReady(self._engine.problem())
        found = VersionsResponse(
            serving=bundle.version,
            problem=self._engine.version_problem or None,
            versions=await asyncio.to_thread(self._list),
        )
        return Response(to_json(found), media_type="application/json")

    def _list(self) -> list[Version]:
        try:
            return list_versions(self._artifacts)[-MAX_VERSIONS:]
        except ArtifactError:  # the folder is gone, and the service goes on without it
            return []
