"""The base of every command: a typed settings object.

Its values come from flags, the environment (RECGPT_STORE=…, RECGPT_MODEL__DIM=…), a TOML file
(--config, RECGPT_CONFIG) or its defaults, in that order.
"""

import inspect
import logging
import os
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from cli.sources import (
    PREFIX,
    Options,
    UsageError,
    check_file,
    injected,
    read_file,
    unknown_variables,
)

log = logging.getLogger(__name__)


class Command(BaseSettings):
    """Options and sources of values that all commands share."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        extra="ignore",  # one file or environment may serve several commands
    )

    file_values: ClassVar[Mapping[str, Any]] = {}

    config: Path | None = Field(
        None, description="TOML file with values for these options (also: RECGPT_CONFIG)"
    )

    def run(self) -> None:
        """Does the work. Raises ValueError or OSError, with a message for the user, if it fails."""
        raise NotImplementedError

    @field_validator("*")
    @classmethod
    def _in_home_folder(cls, value: Any) -> Any:
        """Replaces `~`, which no shell does in `--out=~/data`, in variables and in files."""
        return Path(os.path.expanduser(value)) if isinstance(value, Path) else value

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
        assert isinstance(env_settings, EnvSettingsSource)
        dropped = injected(env_settings.env_vars)
        env_settings.env_vars = {
            name: value for name, value in env_settings.env_vars.items() if name not in dropped
        }
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls.file_values))


def log_above_bars() -> AbstractContextManager[None]:
    """Returns a context in which log lines do not tear progress bars apart."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm()


def check_names(given: type[Command], words: Sequence[str], known: Callable[[], Options]) -> None:
    """Tells of names in environment and file that are not used: misspelt ones, and Kubernetes'.

    `known` returns the options of all commands. Raises UsageError for a key of the file that is
    no option, ValueError if the file can't be read.
    """
    file, values = _file_and_values(words)
    if file is not None:
        check_file(values, file, known())
    ours = {name: value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    if not ours:
        return
    for sentence in unknown_variables(ours, known()):
        log.warning("%s; it is ignored", sentence)
    for variable in injected(ours):
        if variable.upper().removeprefix(PREFIX).lower() in given.model_fields:
            log.warning(
                "%s=%s is ignored: Kubernetes sets it for a Service of that name. "
                "Use the flag or a file to set the option",
                variable,
                ours[variable],
            )


def parse(given: type[Command], name: str, words: Sequence[str]) -> Command:
    """Returns the settings object of `recgpt NAME`, from flags, environment and file.

    Raises UsageError for a wrong value, ValueError if the file can't be read.
    """
    file, values = _file_and_values(words)

    class Chosen(given):  # type: ignore[valid-type, misc]
        __doc__ = inspect.cleandoc(given.__doc__ or "")
        file_values: ClassVar[Mapping[str, Any]] = values

    source = CliSettingsSource[type[Command]](
        Chosen,
        cli_prog_name=f"recgpt {name}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    try:
        command: Command = CliApp.run(Chosen, cli_args=list(words), cli_settings_source=source)
    except ValidationError as error:
        problems = [_explain(problem, words, file, values) for problem in error.errors()]
        raise UsageError("\n  ".join(problems)) from error
    except SettingsError as error:
        # the library's own words name a field of its class; a group of options is a JSON object
        name = re.sub(r'.*field "(\w+)".*', r"\1", str(error))
        variable = f"{PREFIX}{name.upper()}"
        origin = variable if "Env" in str(error) else f"--{name.replace('_', '-')}"
        raise UsageError(f"{origin}: Input should be a JSON object") from error
    return command


def _file_and_values(words: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """Returns the file of options and its values; it must be known before the flags are parsed."""
    told_by, path = "RECGPT_CONFIG", os.environ.get("RECGPT_CONFIG", "")
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--config" or word.startswith("--config="):
            told_by, path = "--config", word.partition("=")[2] or following
    if not path:
        return None, {}
    file = Path(os.path.expanduser(path))
    return file, read_file(file, told_by)


def _explain(
    problem: ErrorDetails, words: Sequence[str], file: Path | None, values: Mapping[str, Any]
) -> str:
    """Returns what is wrong, in terms of the flag, variable or key that the value came from."""
    parts = [str(part) for part in problem["loc"]]
    if not parts:
        return problem["msg"]
    flag = "--" + ".".join(parts).replace("_", "-")
    variables = [PREFIX + "__".join(parts[:end]).upper() for end in range(len(parts), 0, -1)]
    present = {name.upper(): name for name in os.environ if os.environ[name]}
    by_variable = [present[name] for name in variables if name in present]
    if any(word == flag or word.startswith(f"{flag}=") for word in words):
        origin = flag
    elif by_variable:
        origin = by_variable[0]
    elif file is not None and parts[0] in values:
        origin = f"{file}: {'.'.join(parts)}"
    else:
        origin = flag
    return f"{origin}: {problem['msg']}"
