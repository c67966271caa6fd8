"""The pointer as an alias in an MLflow model registry, which then says what is served.

    recgpt publish --registry mlflow    store ◄── bundle; alias ──► its version; then `current`
    recgpt follow                       alias, moved by anybody ──► `current` of this store

The registry holds no bundle: a version of the registered model is the name of one, in the tag
`recgpt_version`. MLflow's own variables say where the registry is, and how to log in to it
(MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_TOKEN, …). The library is an extra, and
is imported only if it is asked for; command lines read this module.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from model.artifact.versions import publish, roll_back, served_version

TAG = "recgpt_version"
SOURCE = "recgpt:///"
"""Begins the source of a model version: a name, and no place that MLflow could read."""


class RegistryConfig(BaseModel, frozen=True):
    """The alias that says which version is served, if one does."""

    registry: Literal["mlflow"] | None = Field(
        None, description="registry whose alias names the served version (default: none does)"
    )
    registry_model: str = Field("recgpt", min_length=1, description="registered model")
    registry_alias: str = Field("current", min_length=1, description="alias of its served version")


class MlflowAlias:
    """An alias of a registered model."""

    def __init__(self, model: str, alias: str) -> None:
        """Finds the registry. Raises ValueError if it or its library cannot be used."""
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise ValueError("--registry needs MLflow: pip install 'recgpt[mlflow]'") from error
        self._error: type[Exception] = MlflowException
        self._model, self._alias = model, alias
        self._client: Any = self._asked(MlflowClient)

    def __str__(self) -> str:
        return f"the alias {self._alias} of the model {self._model}"

    def version(self) -> str | None:
        """Returns the bundle's version that the alias names; None if it names none.

        Raises ValueError if the registry cannot be asked.
        """
        try:
            found = self._client.get_model_version_by_alias(self._model, self._alias)
        except self._error as error:
            if _code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._problem(error) from error
        tag: str | None = found.tags.get(TAG)
        return tag

    def move(self, version: str) -> None:
        """Has the alias name a bundle's version, which is registered unless it is.

        Raises ValueError if the registry refuses.
        """
        number = self._asked(lambda: self._number_of(version))
        self._asked(
            lambda: self._client.set_registered_model_alias(self._model, self._alias, number)
        )

    def _number_of(self, version: str) -> str:
        """Returns the number under which the registry knows a bundle's version."""
        try:
            self._client.create_registered_model(self._model)
        except self._error as error:
            if _code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        for one in self._client.search_model_versions(f"name = '{self._model}'"):
            if one.tags.get(TAG) == version:
                return str(one.version)
        made = self._client.create_model_version(
            self._model, source=SOURCE + version, tags={TAG: version}
        )
        return str(made.version)

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._error as error:
            raise self._problem(error) from error

    def _problem(self, error: Exception) -> ValueError:
        return ValueError(f"the registry of {self} can't be used: {error}")


def publisher(config: RegistryConfig) -> Callable[[Path, str], None]:
    """Returns how to make a version of a store the served one.

    An alias moves first: if that fails, or the process is killed in between, a follower moves
    `current`. Raises ValueError if the registry cannot be used.
    """
    if config.registry is None:
        return publish
    alias = MlflowAlias(config.registry_model, config.registry_alias)

    def publish_with_alias(artifacts: Path, version: str) -> None:
        alias.move(version)
        publish(artifacts, version)

    return publish_with_alias


def follow(artifacts: Path, alias: MlflowAlias) -> str | None:
    """Makes the version that an alias names the served one, unless it is; returns it if so.

    Raises ValueError if the registry cannot be asked, if the alias names no version, or if the
    store has no such version or a damaged one; the served version stays then.
    """
    wanted = alias.version()
    if wanted is None:
        raise ValueError(
            f"{alias} names no version with the tag {TAG}: publish one with --registry mlflow, or "
            "name another alias or model"
        )
    if wanted == served_version(artifacts):
        return None
    return roll_back(artifacts, wanted)


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))
