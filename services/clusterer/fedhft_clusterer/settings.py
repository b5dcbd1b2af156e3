"""Settings of the clusterer."""

from __future__ import annotations

from typing import ClassVar

from fedhft.process.settings import Listen, MetricsPort, ServiceSettings


class ClustererSettings(ServiceSettings):
    """Settings of one clusterer process."""

    program: ClassVar[str] = "fedhft_clusterer"
    about: ClassVar[str] = "Serves memberships to the aggregator."

    listen: Listen = "127.0.0.1:50052"
    metrics_port: MetricsPort = 9102
