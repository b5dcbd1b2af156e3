"""Settings of a process. Each option is one field, with its description and its default.

The field `metrics_port` is the flag `--metrics-port`, the environment variable `FEDHFT_METRICS_PORT`, the key
`metrics_port` of a settings file and the file `fedhft_metrics_port` of a secrets folder; `options.py` reads all of
them. Nothing heavy is imported at the top, so that `--help` and a wrong flag answer at once, and so that the aggregator
can bound its arenas before gRPC starts a thread.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import parse_trust_domain
from fedhft.rpc.address import parse_address, parse_host
from fedhft.telemetry.logs import LogFormat, LogLevel

if TYPE_CHECKING:
    from fedhft.rpc.tls import TlsSettings

PREFIX = "FEDHFT_"
"""What every environment variable begins with."""

Listen = Annotated[str, Field(description="address of the gRPC server, host:port; port 0 picks a free one")]
MetricsPort = Annotated[int, Field(description="port of /metrics, /healthz and /readyz; 0 picks a free one")]


class ProcessSettings(BaseSettings):
    """Settings that every process has; a subclass adds its own fields, its name and its defaults.

    The constructor uses only the values it is given; `options.read_settings` collects them from all sources.
    Raises FedhftError(INVALID_ARGUMENT) for what a field's own rule refuses, pydantic.ValidationError for a wrong type.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    program: ClassVar[str]
    """Name of the process in messages."""
    about: ClassVar[str]
    """What it does, one sentence."""

    metrics_host: str = Field("127.0.0.1", description="host of /metrics, /healthz and /readyz")
    metrics_port: int | None
    log_format: LogFormat = Field("json", description="format of logs on standard error")
    log_level: LogLevel = Field("info", description="minimum level of logs")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain of this process")
    tls_key: Path | None = Field(None, description="PEM private key of this process")
    tls_authority: Path | None = Field(
        None, description="PEM certificates that must have signed the other side's; an agent that has them uses TLS"
    )
    config: Path | None = Field(None, description="TOML file with settings; a key is an option with _ for -")
    secrets_dir: Path | None = Field(
        None, description="folder with a file per secret, named like its variable in lower case: fedhft_redis"
    )

    @property
    def tls(self) -> TlsSettings | None:
        """None means no TLS."""
        given = (self.tls_certificate, self.tls_key, self.tls_authority)
        if not any(given):
            return None
        from fedhft.rpc.tls import TlsSettings  # brings gRPC

        return TlsSettings(*given)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor only: `read_settings` reads the other sources and can name them."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object, info: ValidationInfo) -> object:
        """Empty text means None where a setting is optional, and is refused where it is required."""
        field = cls.model_fields[str(info.field_name)]
        if value == "" and field.is_required():
            raise missing(str(info.field_name))
        if (
            field.annotation is int
            and not field.metadata
            and isinstance(value, str)
            and not value.strip().lstrip("+-").isdecimal()
        ):
            raise PydanticKnownError("int_parsing")  # pydantic would take 1.0
        return None if value == "" and field.default is None else value

    @field_validator("metrics_host")
    @classmethod
    def _is_a_host(cls, value: str) -> str:
        return parse_host(value, flag_of("metrics_host"))

    @model_validator(mode="after")
    def _tls_files_go_together(self) -> ProcessSettings:
        _ = self.tls  # refuses a certificate without its key, and the reverse
        return self


class ServiceSettings(ProcessSettings):
    """Settings of every gRPC service."""

    listen: str
    redis: str = Field("redis://127.0.0.1:6379/0", description="store: redis://host:port/db or unix:///path")
    redis_password_file: Path | None = Field(
        None,
        description="file with the store's password as it is, nothing in it encoded; read at every connection, so that "
        "it may be replaced",
    )
    trust_domain: str = Field(
        "", description="SPIFFE trust domain of callers; without it, that of this process's own certificate"
    )
    insecure: bool = Field(
        False,
        description="serve other machines although callers show no certificate: whoever reaches the port may then do "
        "everything, under every name",
    )
    grace: float = Field(10.0, description="seconds that running calls get when the service is told to stop")
    metrics_port: int

    @property
    def tls(self) -> TlsSettings | None:
        """None means no TLS."""
        return None if (own := super().tls) is None else replace(own, trust_domain=self.trust_domain)

    @field_validator("trust_domain")
    @classmethod
    def _is_a_trust_domain(cls, value: str) -> str:
        return parse_trust_domain(value) if value else value

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parse_address(value, flag_of("listen"))
        return value


def flag_of(name: str) -> str:
    """A setting's flag on the command line."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """A setting's environment variable."""
    return PREFIX + name.upper()


def missing(name: str) -> FedhftError:
    """The error for a required setting that was not given."""
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, flag_of(name), "", "is required", f"give it, or set {variable_of(name)}"
    )
