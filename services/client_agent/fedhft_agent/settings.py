"""Settings of the agent.

Neither a tensor library nor gRPC is imported here, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId, parse_client_id, parse_job_id
from fedhft.job_values import Size, parse_duration
from fedhft.process.settings import ProcessSettings, flag_of
from fedhft.rpc.address import parse_address


def _whole(largest: int) -> BeforeValidator:
    """Whole numbers from 0 to `largest`, as digits or as a number; None passes."""

    def check(value: object, info: ValidationInfo) -> object:
        digits = str(value)
        if value is None or (digits.isdecimal() and int(digits) <= largest):
            return value
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, flag_of(str(info.field_name)), value, "is not in range",
            f"write a whole number from 0 to {largest}",
        )  # fmt: skip

    return BeforeValidator(check)


def _address(value: str, info: ValidationInfo) -> str:
    """A host and a port."""
    parse_address(value, flag_of(str(info.field_name)))
    return value


class AgentSettings(ProcessSettings):
    """Settings of one agent process."""

    program: ClassVar[str] = "fedhft_agent"
    about: ClassVar[str] = "Trains this machine's part of a federation."

    server: Annotated[str, AfterValidator(_address)] = Field(description="the aggregator, host:port")
    client: Annotated[ClientId, AfterValidator(parse_client_id)] = Field(
        description="whose data this is: 1-63 characters of a-z 0-9 . _ -; one agent at a time may run under it"
    )
    data: str = Field(description="training rows: a .jsonl[.gz], .csv or .parquet file, or a datasets id")
    holdout: str | None = Field(
        None, description="the client's held-out rows; without them, the job's share of the training rows is held out"
    )
    shared_validation: str | None = Field(None, description="the validation split that all clients share")
    model: str | None = Field(None, description="local copy of the base model, instead of the job's name for it")
    memory: Size = Field(
        0,
        description='memory the agent may use, e.g. "2GiB"; decides its tier and the plans it refuses; 0: not stated',
    )
    tier: str = Field("", description="tier to ask for; without one, the job decides")
    job: Annotated[JobId, AfterValidator(parse_job_id)] | None = Field(
        None, description="take part in this job only, and exit when it is over; without one, in every job on offer"
    )
    state_dir: Path | None = Field(
        None,
        description="folder in which work survives a restart, one per agent; "
        "without it, the user's state directory / fedhft / client",
    )
    once: bool = Field(False, description="exit after one job")
    threads: Annotated[int, _whole(4096)] = Field(
        0, description="threads of tensor operations; with 1, training repeats bit for bit; 0 leaves it to torch"
    )
    metrics_port: Annotated[int | None, _whole(65535)] = Field(
        None, description="port of /metrics, /healthz and /readyz; 0 picks a free one; without it, there are no pages"
    )
    give_up_after: Annotated[float | None, BeforeValidator(parse_duration)] = Field(
        None, description='exit when the server has not answered for this long, e.g. "10m"; without it, or 0s: never'
    )

    @property
    def state_folder(self) -> Path:
        """Where unacknowledged work and carried errors survive a restart."""
        return self.state_dir or _user_state() / self.client

    @property
    def give_up_after_s(self) -> float | None:
        """Seconds without an answer from the server after which the agent exits; None means never."""
        return self.give_up_after or None


def _user_state() -> Path:
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "fedhft"
