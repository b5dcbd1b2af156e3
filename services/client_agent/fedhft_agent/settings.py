"""Settings of the agent.

Neither a tensor library nor gRPC is imported here, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_settings import NoDecode

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId, parse_client_id, parse_job_id
from fedhft.job_values import Size, parse_duration
from fedhft.process.device_name import DeviceName
from fedhft.process.free_memory import free_memory
from fedhft.process.settings import ProcessSettings, flag_of
from fedhft.rpc.address import parse_address
from fedhft_agent.owner_rules import OwnerRules


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


def _several(value: object) -> object:
    """Words separated by commas, or a list of them; empty means None."""
    words = value.split(",") if isinstance(value, str) else value
    if words is None or (isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)):
        return tuple(word.strip() for word in words or () if word.strip()) or None
    raise ValueError(f"{value!r} is neither text nor a list of texts; write words separated by commas")


def _up_to(largest: float) -> BeforeValidator:
    """Numbers above 0, up to `largest`; None passes."""

    def check(value: object, info: ValidationInfo) -> object:
        try:
            number = None if value is None else float(str(value))
        except ValueError:
            number = math.nan
        if number is None or 0 < number <= largest:
            return number
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, flag_of(str(info.field_name)), value, "is not in range",
            f"write a number above 0, up to {largest:g}",
        )  # fmt: skip

    return BeforeValidator(check)


def _or_auto(value: object) -> object:
    """The word auto becomes what is free now, less a margin. Raises FedhftError(INVALID_ARGUMENT)."""
    if value != "auto":
        return value
    return free_memory().budget


Words = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_several)]
"""As a flag or variable: words separated by commas. In a file also a list."""


class AgentSettings(ProcessSettings):
    """Settings of one agent process."""

    program: ClassVar[str] = "fedhft_agent"
    about: ClassVar[str] = (
        "Trains this machine's part of a federation. With the word check first, says whether it would work."
    )

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
    device: DeviceName = Field(
        "auto",
        description="where to train: cpu, cuda, cuda:N or mps; auto: the first accelerator that works, or else the CPU",
    )
    memory: Annotated[Size, BeforeValidator(_or_auto)] = Field(
        0,
        description='memory the agent may use, e.g. "2GiB"; decides its tier and the plans it refuses; auto: what is '
        "free at the start, within the limits of its control groups, less a margin; 0: not stated",
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
    cache: Path | None = Field(
        None,
        description="folder in which outputs of layers that are not trained are kept, to be worked out once; without "
        "it, prefix in the state directory; off: nowhere",
    )
    cache_size: Size = Field(2 << 30, description='most that the cache may take of the disk, e.g. "2GiB"')
    cache_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="how the cache keeps values; 16 bits take half the room, and change results slightly"
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

    allow_jobs: Words = Field(
        None, description="owner's rule: names of jobs to serve, comma-separated, * and ? as wildcards; default: any"
    )
    allow_operators: Words = Field(
        None, description="owner's rule: operators whose jobs to serve, likewise; default: any, known or not"
    )
    allow_encodings: Words = Field(
        None, description='owner\'s rule: encodings in which updates may be sent, e.g. "int8"; default: any'
    )
    least_updates: Annotated[int | None, _whole(10**6)] = Field(
        None, description="owner's rule: fewest clients' updates that a published version may be made from"
    )
    largest_share: Annotated[float | None, _up_to(1)] = Field(
        None, description="owner's rule: largest share, 0 to 1, that this client may be of any cluster's average"
    )
    most_rounds: Annotated[int | None, _whole(10**6)] = Field(None, description="owner's rule: most rounds of a job")
    most_epochs: Annotated[float | None, _up_to(10**6)] = Field(
        None, description="owner's rule: most epochs of local training per round"
    )
    most_steps: Annotated[int | None, _whole(10**9)] = Field(
        None, description="owner's rule: most optimiser steps per round"
    )
    most_rank: Annotated[int | None, _whole(10**4)] = Field(
        None, description="owner's rule: highest LoRA rank; methods that train all weights are then declined too"
    )
    most_depth: Annotated[int | None, _whole(10**4)] = Field(None, description="owner's rule: most layers to train")

    @property
    def rules(self) -> OwnerRules:
        """What the owner of this machine allows."""
        return OwnerRules(
            allow_jobs=self.allow_jobs or (),
            allow_operators=self.allow_operators or (),
            allow_encodings=self.allow_encodings or (),
            least_updates=self.least_updates,
            largest_share=self.largest_share,
            most_rounds=self.most_rounds,
            most_epochs=self.most_epochs,
            most_steps=self.most_steps,
            most_rank=self.most_rank,
            most_depth=self.most_depth,
        )

    @property
    def state_folder(self) -> Path:
        """Where unacknowledged work and carried errors survive a restart.

        Raises FedhftError(INVALID_ARGUMENT) when none is given and the user has no home directory.
        """
        return self.state_dir or _user_state() / self.client

    @property
    def cache_folder(self) -> Path | None:
        """Where outputs of frozen layers are kept; None: nowhere."""
        if self.cache is None:
            return self.state_folder / "prefix"
        return None if str(self.cache) == "off" else self.cache

    @property
    def give_up_after_s(self) -> float | None:
        """Seconds without an answer from the server after which the agent exits; None means never."""
        return self.give_up_after or None


def _user_state() -> Path:
    root = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".local" / "state") / "fedhft"
    except RuntimeError as error:  # a user id without a home, as containers have
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--state-dir", "", "this user has no home directory to keep it in",
            "set --state-dir",
        ) from error  # fmt: skip
