"""The service's configuration: environment first, then a YAML file, then defaults.

The file is named by POURTIER_CONFIG, its keys are those of the environment. The
platform's existing `pourtier.yaml` is such a file: keys in it that mean nothing to this
service are accepted, and `Settings.ignored` names them so that the start can say so.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pourtier_grpc import addresses, failpoints
from pourtier_grpc.addresses import is_loopback
from pourtier_grpc.config_file import ConfigError, FileSource, read_file

__all__ = ["ConfigError", "Settings", "load"]

# Secrets that stand in examples and old defaults, and so in attackers' lists.
KNOWN_SECRETS = frozenset(
    {"secret", "changeme", "change-me", "your-secret-key", "your-secret-key-here"}
)
MIN_SECRET_BYTES = 32


class Settings(BaseSettings):
    """Every setting of the service. Names in the environment are these in capitals."""

    model_config = SettingsConfigDict(
        case_sensitive=False,
        # `KEY_DIR=` is what a template leaves where nothing was given: not a folder.
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    env: Literal["development", "test", "staging", "production"] = "development"

    database_url: SecretStr | None = None
    database_pool_size: int = Field(default=20, ge=1)
    database_pool_overflow: int = Field(default=10, ge=0)
    database_pool_recycle_seconds: int = Field(default=3600, ge=1)
    database_statement_timeout_seconds: float = Field(default=5.0, gt=0)

    redis_url: SecretStr | None = None
    redis_host: str | None = None
    redis_port: int = 6379
    redis_password: SecretStr | None = None
    redis_timeout_seconds: float = Field(default=0.05, gt=0)

    passeur_url: str | None = Field(
        default=None, pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$"
    )
    passeur_timeout_seconds: float = Field(default=10.0, gt=0)
    passeur_connections: int = Field(default=20, ge=1)
    passeur_breaker_failures: int = Field(default=5, ge=1)
    passeur_breaker_seconds: float = Field(default=30.0, gt=0)
    passeur_breaker_successes: int = Field(default=2, ge=1)
    passeur_threads: int = Field(default=16, ge=1, le=512)
    passeur_queue_limit: int = Field(default=64, ge=1)

    key_dir: Path | None = None
    jwt_algorithm: Literal["EdDSA", "HS256"] = "EdDSA"
    jwt_secret_key: SecretStr | None = None
    jwt_access_token_expire_minutes: int = Field(default=30, ge=1, le=24 * 60)
    jwt_issuer: str = "pourtier"
    jwt_audience: str = "lumiere"

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    solana_network: Literal["mainnet", "testnet", "devnet", "localnet"] = "mainnet"
    challenge_minutes: int = Field(default=10, ge=1, le=60)
    session_idle_days: int = Field(default=30, ge=1)
    session_max_days: int = Field(default=90, ge=1)
    admin_session_minutes: int = Field(default=60, ge=1)
    max_sessions_per_user: int = Field(default=100, ge=1)

    # Of whoever deploys.
    required_kyc_level: Literal["none", "basic", "full"] = "none"

    screened_wallets: Annotated[tuple[str, ...], NoDecode] = ()
    screened_wallets_file: Path | None = None

    # How long access goes on after the end of a period whose renewal was refused.
    subscription_grace_days: int = Field(default=0, ge=0, le=28)
    # Of the catalogue of plans; without a value the one that the service comes with.
    plans_file: Path | None = None

    grpc_listen: Annotated[tuple[str, ...], NoDecode] = ()
    grpc_unix_socket: Path | None = None
    allow_plaintext: bool = False
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    threads: int = Field(default=16, ge=1, le=512)
    queue_limit: int = Field(default=256, ge=1)
    call_timeout_seconds: float = Field(default=30.0, gt=0)
    max_request_bytes: int = Field(default=1024 * 1024, ge=1024)
    max_response_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    drain_seconds: float = Field(default=25.0, ge=0)
    # Longer than the edge needs to see it: two looks at health, a second apart.
    drain_notice_seconds: float = Field(default=2.0, ge=0)
    connection_age_seconds: int = Field(default=600, ge=1)

    metrics_host: str = "127.0.0.1"
    # 0 is any port that is free.
    pourtier_metrics_port: int = Field(default=9464, ge=0, le=65535)
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, pattern=r"^https?://[^/@]+/?$"
    )
    # Without a value, both depend on the environment.
    trace_sample_ratio: float | None = Field(default=None, ge=0, le=1)
    log_success_ratio: float | None = Field(default=None, ge=0, le=1)

    # Outside the database; without a value in the data directory.
    audit_checkpoint_file: Path | None = None

    # Of Redis, for consumers that were away.
    event_stream_days: int = Field(default=7, ge=1)

    pourtier_data_dir: Path = Path(".pourtier")
    pourtier_http_port: int = Field(default=9000, ge=1, le=65535)
    pourtier_internal_http_port: int = Field(default=9001, ge=1, le=65535)
    pourtier_grpc_port: int = Field(default=50051, ge=1, le=65535)
    pourtier_passeur_port: int = Field(default=9100, ge=1, le=65535)
    # In front of the public listener; one too many lets clients choose their address.
    trusted_proxies: int = Field(default=0, ge=0, le=16)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # Where a test has the process killed.
    failpoints: Annotated[tuple[str, ...], NoDecode] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, FileSource(settings_cls)

    @field_validator(
        "allowed_origins",
        "failpoints",
        "grpc_listen",
        "screened_wallets",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            addresses.require_origin(origin)
        return origins

    @field_validator("grpc_listen")
    @classmethod
    def _check_addresses(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        for address in listen:
            addresses.require_address(address)
        return listen

    @field_validator("failpoints")
    @classmethod
    def _check_failpoints(cls, points: tuple[str, ...]) -> tuple[str, ...]:
        failpoints.read(points)
        return points

    @field_validator("passeur_url")
    @classmethod
    def _check_passeur(cls, url: str | None) -> str | None:
        if url is not None:
            addresses.require_host(url)
        return url

    @field_validator("env", mode="before")
    @classmethod
    def _spell_out_env(cls, value: object) -> object:
        short = {"dev": "development", "local": "development", "prod": "production"}
        text = value.lower() if isinstance(value, str) else value
        return short.get(text, text) if isinstance(text, str) else text

    @property
    def production(self) -> bool:
        """True where people's money is at stake, and unsafe settings stop the start."""
        return self.env == "production"

    @property
    def origins(self) -> tuple[str, ...]:
        """The web origins that may call, and whose hosts are the sign-in domains.

        The first is the default sign-in domain.
        """
        if self.allowed_origins:
            return self.allowed_origins
        if self.production:
            return ("https://app.lumiere.trade",)
        return ("http://localhost:3000", f"http://localhost:{self.pourtier_http_port}")

    @property
    def listen(self) -> tuple[str, ...]:
        """The addresses on which native gRPC is served, as `host:port`."""
        return self.grpc_listen or (f"127.0.0.1:{self.pourtier_grpc_port}",)

    @property
    def tls(self) -> bool:
        """Whether native gRPC is encrypted."""
        return self.tls_cert_file is not None and self.tls_key_file is not None

    @property
    def keys(self) -> Path:
        """The folder of the key material."""
        return self.key_dir or self.pourtier_data_dir / "keys"

    @property
    def checkpoint_file(self) -> Path:
        """The file to which a worker writes the checkpoints of the audit log."""
        default = self.pourtier_data_dir / "audit-checkpoints.jsonl"
        return self.audit_checkpoint_file or default

    @property
    def traced(self) -> float:
        """Which part of the calls is traced, of those whose caller leaves it to us."""
        default = 0.01 if self.production else 1.0
        return default if self.trace_sample_ratio is None else self.trace_sample_ratio

    @property
    def logged_successes(self) -> float:
        """Which part of the calls that succeed is in the log."""
        default = 0.1 if self.production else 1.0
        return default if self.log_success_ratio is None else self.log_success_ratio

    @property
    def access_token_lifetime(self) -> timedelta:
        """How long an access token is good."""
        return timedelta(minutes=self.jwt_access_token_expire_minutes)

    def database_dsn(self) -> str | None:
        """The database's URL in SQLAlchemy's form for psycopg, or None where unset.

        `postgresql+asyncpg://` and `postgres://` mean the same database, and asyncpg's
        `ssl` is libpq's `sslmode`.
        """
        if self.database_url is None:
            return None
        scheme, found, rest = self.database_url.get_secret_value().partition("://")
        if not found or scheme.split("+")[0] not in {"postgresql", "postgres"}:
            raise ConfigError("DATABASE_URL is not a postgresql:// URL")
        rest = re.sub(r"(?<=[?&])ssl=", "sslmode=", rest)
        return f"postgresql+psycopg://{rest}"

    def with_database(self, url: str) -> Settings:
        """The same settings for another database."""
        return self.model_copy(update={"database_url": SecretStr(url)})

    def redis_dsn(self) -> str | None:
        """The URL of Redis, or None where neither REDIS_URL nor REDIS_HOST is set."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host is None:
            return None
        password = self.redis_password.get_secret_value() if self.redis_password else ""
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{self.redis_host}:{self.redis_port}/0"

    def ignored(self) -> list[str]:
        """The keys of the file that mean nothing to this service, sorted."""
        known = {name.upper() for name in type(self).model_fields}
        return sorted(key for key in read_file() if key.upper() not in known)

    def unsafe(self) -> list[str]:
        """What must not be so where it is, a sentence each; empty where all is safe.

        Any one of them stops the start.
        """
        return [*self._unsafe_anywhere(), *self._unsafe_in_production()]

    def _unsafe_anywhere(self) -> list[str]:
        sentences = []
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            sentences.append("TLS needs both TLS_CERT_FILE and TLS_KEY_FILE")
        elif self.tls_client_ca_file is not None and not self.tls:
            sentences.append(
                "TLS_CLIENT_CA_FILE demands nothing of clients without TLS_CERT_FILE "
                "and TLS_KEY_FILE"
            )
        if not self.allow_plaintext and not self.tls:
            sentences += [
                f"GRPC_LISTEN={address} is plaintext off loopback: give it TLS "
                "(TLS_CERT_FILE, TLS_KEY_FILE), or put it behind a closed network and "
                "say so with ALLOW_PLAINTEXT=true"
                for address in self.listen
                if not is_loopback(address)
            ]
        metrics = f"{self.metrics_host}:{self.pourtier_metrics_port}"
        # No certificate of the listeners encrypts these.
        if not self.allow_plaintext and not is_loopback(metrics):
            sentences.append(
                f"METRICS_HOST={self.metrics_host} is plaintext off loopback: put "
                "it behind a closed network and say so with ALLOW_PLAINTEXT=true"
            )
        if "*" in self.origins:
            sentences.append(
                "ALLOWED_ORIGINS has a wildcard: any site could call, and none of its "
                "hosts is a sign-in domain"
            )
        if self.jwt_algorithm == "HS256" and self.jwt_secret_key is None:
            sentences.append("JWT_ALGORITHM=HS256 needs JWT_SECRET_KEY")
        if self.failpoints and self.env not in {"development", "test"}:
            sentences.append(f"FAILPOINTS in {self.env} would have the process killed")
        return sentences

    def _unsafe_in_production(self) -> list[str]:
        if not self.production:
            return []
        sentences = []
        if self.jwt_algorithm == "HS256" and self.jwt_secret_key is not None:
            secret = self.jwt_secret_key.get_secret_value()
            if secret.lower() in KNOWN_SECRETS or len(secret) < MIN_SECRET_BYTES:
                sentences.append(
                    "JWT_SECRET_KEY is a default or shorter than "
                    f"{MIN_SECRET_BYTES} bytes"
                )
        sentences += [
            f"ALLOWED_ORIGINS has {origin}, which is not https"
            for origin in self.origins
            if origin.startswith("http://")
        ]
        if self.database_url is None:
            sentences.append("DATABASE_URL is not set")
        return sentences


def load(**overrides: object) -> Settings:
    """The settings of this process; `overrides` go before everything else.

    Raises ConfigError with a sentence for each setting that has no meaning.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type] # names are the fields'
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']).upper()}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from None
