"""What the dashboards show: four of them, row by row, as data. generate.py makes Grafana's JSON of it."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.grafana.clients import CLIENTS
from deploy.grafana.clusters import CLUSTERS
from deploy.grafana.communication import COMMUNICATION
from deploy.grafana.federation import FEDERATION

DASHBOARDS = (FEDERATION, COMMUNICATION, CLIENTS, CLUSTERS)

WITHOUT_PANEL: Mapping[str, str] = {
    "process_": "the client library's own series: only memory has a panel, the rest is in every process dashboard",
    "fedhft_client_predicted_memory_bytes": "only clients with a budget of memory report it, beside their peak",
}
"""Series, or what their names begin with, that are on no dashboard, and why."""
