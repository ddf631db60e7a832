"""What the environment must, or may, say; read once, typed, and refused with the variable's name when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _plain(name: str) -> Any:
    # The names every tool knows go without our prefix.
    return Field(validation_alias=AliasChoices(name))


class Environment(BaseSettings):
    """Variables are R3EDGE_<NAME>, but for DATABASE_URL, REDIS_URL and BROKER_URL."""

    model_config = SettingsConfigDict(
        env_prefix="R3EDGE_",
        extra="ignore",
        hide_input_in_errors=True,  # it would print a refused URL with its password
    )

    database_url: SecretStr = _plain("DATABASE_URL")
    redis_url: SecretStr = _plain("REDIS_URL")
    broker_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("BROKER_URL"))
    secret_key: SecretStr
    # The first encrypts exchange keys, all of them decrypt.
    encryption_keys: Annotated[list[SecretStr], NoDecode]
    allowed_hosts: Annotated[list[str], NoDecode] = ["localhost", "127.0.0.1", "[::1]"]
    csrf_trusted_origins: Annotated[list[str], NoDecode] = []
    debug: bool = False
    is_https: bool = False
    # Connections this process keeps in a pool; 0: one per thread. The web server wants a pool, workers do not.
    db_pool: int = 0
    log_level: str = "INFO"
    # After how many days a month of them is dropped; empty: never.
    keep_candles_days: Annotated[int, Field(ge=1)] | None = None
    keep_trades_days: Annotated[int, Field(ge=1)] | None = 90
    # Candles of Alpha Vantage need a key; what it allows without payment, and what Yahoo bears.
    alpha_vantage_key: SecretStr | None = None
    alpha_vantage_per_minute: int = Field(default=5, ge=1)
    alpha_vantage_per_day: int = Field(default=25, ge=1)
    yahoo_per_minute: int = Field(default=60, ge=1)
    # Below it lie the candle files that a feed's source may name; nothing else of this machine is read for one.
    candle_files: Path | None = None
    # The folder of one's own strategies. What is in it is run: it is as trusted as the program.
    strategies: Path | None = None

    @field_validator("encryption_keys", "allowed_hosts", "csrf_trusted_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("keep_candles_days", "keep_trades_days", mode="before")
    @classmethod
    def _is_for_ever(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("alpha_vantage_key")
    @classmethod
    def _is_set(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("candle_files", "strategies", mode="before")
    @classmethod
    def _is_absolute(cls, value: Any) -> Any:
        if value in (None, ""):
            return None
        if not Path(value).is_absolute():
            raise ValueError("wanted an absolute path, was a relative one")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        scheme = urlsplit(value.get_secret_value()).scheme
        if scheme not in ("postgresql", "postgres"):
            raise ValueError(f"wanted postgresql://user:password@host:port/name, was {scheme or 'no'} scheme")
        return value

    def database(self) -> dict[str, Any]:
        """Django's DATABASES entry."""
        url = urlsplit(self.database_url.get_secret_value())
        options: dict[str, Any] = {"pool": {"min_size": 1, "max_size": self.db_pool}} if self.db_pool else {}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(url.path.lstrip("/")),
            "USER": unquote(url.username or ""),
            "PASSWORD": unquote(url.password or ""),
            "HOST": url.hostname or "",
            "PORT": str(url.port or ""),
            "OPTIONS": options,
        }
