"""The one command, `recgpt`: composes the packages. Nothing imports it.

Every subcommand is one typed settings object. Its values come from flags, the environment
(RECGPT_STORE=…, RECGPT_MODEL__DIM=…), a TOML file (--config), or its defaults, in that order.
"""

from abc import abstractmethod
from pathlib import Path

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

Figures = dict[str, dict[str, float]]


class Command(BaseSettings):
    """What every subcommand has in common."""

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

    @abstractmethod
    def run(self) -> None:
        """Do it. Raises ValueError, with a message for the user, where it can't."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (put in front by the library), environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
