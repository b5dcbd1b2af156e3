"""Settings of the aggregator."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from fedhft.process.settings import Listen, MetricsPort, ServiceSettings


class AggregatorSettings(ServiceSettings):
    """Settings of one aggregator process."""

    program: ClassVar[str] = "fedhft_aggregator"
    about: ClassVar[str] = "Serves agents and people, drives jobs."

    listen: Listen = "127.0.0.1:50051"
    metrics_port: MetricsPort = 9101
    blobs: str = Field(
        "redis", description='where tensors are kept: "redis", or "dir:<path>" on a volume all replicas share'
    )
    clusterer: str = Field(
        "",
        description="address of the clusterer, host:port; without one, memberships stay as they are",
    )
    max_concurrent_rpcs: int = Field(0, description="calls served at once, long polls included; 0 means no limit")

    @field_validator("clusterer")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value:
            from fedhft.rpc.server import parse_address  # imports gRPC, which must not happen at the top

            parse_address(value, "clusterer")
        return value
