"""The base of every command: a typed settings object.

Its values come from flags, the environment (RECGPT_STORE=…, RECGPT_MODEL__DIM=…), a TOML file
(--config) or its defaults, in that order.
"""

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Command(BaseSettings):
    """Options and sources of values that all commands share."""

    model_config = SettingsConfigDict(
        env_prefix="RECGPT_",
        env_nested_delimiter="__",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        extra="ignore",  # one file or environment may serve several commands
    )

    config: Path | None = Field(None, description="TOML file with values for these options")

    def run(self) -> None:
        """Does the work. Raises ValueError or OSError, with a message for the user, if it fails."""
        raise NotImplementedError

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources after the flags, which the library puts first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def log_above_bars() -> AbstractContextManager[None]:
    """Returns a context in which log lines do not tear progress bars apart."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm()


def parse(given: type[Command], name: str, words: Sequence[str]) -> Command:
    """Returns the settings object of `recgpt NAME`, from flags, environment and file.

    Raises ValidationError (see `explain`) for a wrong value, ValueError for a missing file.
    """
    file = _config_file(words)

    class Chosen(given):  # type: ignore[valid-type, misc]
        __doc__ = inspect.cleandoc(given.__doc__ or "")
        model_config = SettingsConfigDict(toml_file=file)

    source = CliSettingsSource[type[Command]](
        Chosen,
        cli_prog_name=f"recgpt {name}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    command: Command = CliApp.run(Chosen, cli_args=list(words), cli_settings_source=source)
    return command


def _config_file(words: Sequence[str]) -> Path | None:
    """Returns the file that --config names: it must be known before other values are read."""
    for word, following in pairwise([*words, ""]):
        if word == "--config" or word.startswith("--config="):
            file = Path(word.partition("=")[2] or following)
            if not file.is_file():
                raise ValueError(f"--config: there is no file {file}")
            return file
    return None


def explain(error: ValidationError) -> str:
    """Returns the problems in terms of flags, a line each."""
    problems = []
    for problem in error.errors():
        flag = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        problems.append(f"{flag}: {problem['msg']}" if problem["loc"] else problem["msg"])
    return "\n  ".join(problems)
