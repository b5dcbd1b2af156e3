"""Settings of the aggregator."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from fedhft.coordination.lease import LEASE_MS
from fedhft.process.settings import Listen, MetricsPort, ServiceSettings, flag_of
from fedhft.rounds.paging import KEPT_ROUNDS
from fedhft.rpc.address import parse_address


class AggregatorSettings(ServiceSettings):
    """Settings of one aggregator process."""

    program: ClassVar[str] = "fedhft_aggregator"
    about: ClassVar[str] = "Serves agents and people, drives jobs."

    listen: Listen = "127.0.0.1:50051"
    admin_listen: str = Field(
        "127.0.0.1:50053",
        description="address of the Jobs service, which people call, host:port; agents never need to reach it",
    )
    metrics_port: MetricsPort = 9101
    blobs: str = Field(
        "redis", description='where tensors are kept: "redis", or "dir:<path>" on a volume all replicas share'
    )
    clusterer: str = Field(
        "",
        description="address of the clusterer, host:port; without one, memberships stay as they are",
    )
    kept_rounds: int = Field(
        KEPT_ROUNDS,
        ge=1,
        description="rounds of every job whose figures are kept, one or two KB each in Redis; those of older ones are "
        "dropped",
    )
    takeover: float = Field(
        LEASE_MS / 1000,
        ge=1,
        le=300,
        description="seconds after which another replica, or this one started again, drives the jobs of one that died; "
        "fewer mean more writes to the store, and take a job from a replica that is only slow",
    )
    page: str = Field(
        "",
        description="address of the page that shows jobs to people with a browser, host:port; without one there is "
        "none. Beyond this machine only with TLS, and to operators",
    )
    max_concurrent_rpcs: int = Field(0, description="calls served at once, long polls included; 0 means no limit")

    @field_validator("clusterer", "admin_listen", "page")
    @classmethod
    def _are_addresses(cls, value: str, info: ValidationInfo) -> str:
        if value:  # clusterer and page are optional
            parse_address(value, flag_of(str(info.field_name)))
        return value
