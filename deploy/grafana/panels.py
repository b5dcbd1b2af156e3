"""What the dashboards show: four of them, row by row, as data. generate.py makes Grafana's JSON of it.

`$federation` is the dashboard's choice of jobs, `$__rate_interval` Grafana's window for rates. A job's gauges are shown
by one aggregator at a time, and for a few seconds by two while a lease changes hands, so queries take the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

F = 'federation=~"$federation"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and how its lines are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel: lines over time, or with `stat` the last values alone. width: of 24 columns."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    stat: bool = False
    width: int = 8


@dataclass(frozen=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]


def _worst(name: str, labels: str = "") -> str:
    """A job's gauge, by job and these labels."""
    by = ", ".join(["federation", *([labels] if labels else [])])
    return f"max by ({by}) ({name}{{{F}}})"


def _sum(name: str, labels: str) -> str:
    return f"sum by ({labels}) (rate({name}{RATE}))"


def _job(name: str, labels: str = "") -> str:
    by = ", ".join(["federation", *([labels] if labels else [])])
    return f"sum by ({by}) (rate({name}{{{F}}}{RATE}))"


def _quantile(share: float, name: str, labels: str, selector: str = "") -> str:
    return f"histogram_quantile({share:g}, sum by ({labels}, le) (rate({name}_bucket{selector}{RATE})))"


def _mean(name: str, labels: str, selector: str = "") -> str:
    by = f"sum by ({labels}) " if labels else "sum "
    return f"{by}(rate({name}_sum{selector}{RATE})) / {by}(rate({name}_count{selector}{RATE}))"


FEDERATION = Dashboard(
    "fedhft-federation",
    "fedhft: federations",
    "Where each job stands: its rounds, its scores, and what went wrong.",
    {
        "Now": [
            Panel(
                "State",
                "The state of every job; those that are over are shown for a quarter of an hour.",
                [
                    Query(
                        f"max by (federation, state) (fedhft_federation_state{{{F}}}) == 1", "{{federation}} {{state}}"
                    )
                ],
                stat=True,
            ),
            Panel(
                "Round",
                "The open or last round, and how many the job asks for.",
                [
                    Query(_worst("fedhft_federation_round"), "{{federation}}"),
                    Query(_worst("fedhft_federation_rounds_planned"), "{{federation}} asks for"),
                ],
                stat=True,
            ),
            Panel(
                "Held up",
                "Jobs that somebody or something keeps from going on, and aggregators that drive each job (1).",
                [
                    Query(_worst("fedhft_federation_paused"), "{{federation}} paused"),
                    Query(_worst("fedhft_federation_blocked"), "{{federation}} blocked"),
                    Query(f"sum by (federation) (fedhft_federation_lease_held{{{F}}})", "{{federation}} driven"),
                ],
            ),
        ],
        "Rounds": [
            Panel(
                "Updates of the round",
                "Clients sampled, updates recorded, and how many the round needs at its deadline.",
                [
                    Query(_worst("fedhft_federation_round_asked"), "{{federation}} sampled"),
                    Query(_worst("fedhft_federation_round_delivered"), "{{federation}} delivered"),
                    Query(_worst("fedhft_federation_round_quorum"), "{{federation}} quorum"),
                ],
            ),
            Panel(
                "Age of the round",
                "Time since the open or last round opened, and until the open one is due.",
                [
                    Query(f"time() - {_worst('fedhft_federation_round_opened_seconds')}", "{{federation}} age"),
                    Query(f"{_worst('fedhft_federation_round_deadline_seconds')} - time()", "{{federation}} due in"),
                ],
                "s",
            ),
            Panel(
                "Length of a round",
                "Mean over the last hour, by phase; their sum is the round's.",
                [Query(f"federation_phase:fedhft_round_phase_seconds:mean1h{{{F}}}", "{{federation}} {{phase}}")],
                "s",
            ),
            Panel(
                "Rounds by outcome",
                "Counted since the job began on the aggregators that run now.",
                [Query(f"sum by (federation, outcome) (fedhft_rounds_total{{{F}}})", "{{federation}} {{outcome}}")],
            ),
            Panel(
                "Updates not folded as sent",
                "Refused for what they hold, set aside, left out for pointing against the others, or scaled down.",
                [
                    Query(
                        f"sum by (federation, code) (fedhft_updates_refused_total{{{F}}})",
                        "{{federation}} refused: {{code}}",
                    ),
                    Query(f"sum by (federation) (fedhft_updates_set_aside_total{{{F}}})", "{{federation}} set aside"),
                    Query(f"sum by (federation) (fedhft_updates_opposed_total{{{F}}})", "{{federation}} opposed"),
                    Query(f"sum by (federation) (fedhft_updates_clipped_total{{{F}}})", "{{federation}} clipped"),
                ],
            ),
            Panel(
                "Failed steps",
                "Steps that failed and are tried again, by kind.",
                [Query(f"sum by (federation, kind) (fedhft_steps_failed_total{{{F}}})", "{{federation}} {{kind}}")],
            ),
            Panel(
                "Folding and decoding",
                "Mean time to fold a round, and to decode and check one update.",
                [
                    Query(_mean("fedhft_fold_seconds", ""), "fold"),
                    Query(_mean("fedhft_decoding_seconds", ""), "decode"),
                ],
                "s",
            ),
        ],
        "Scores": [
            Panel(
                "Personal score",
                "Of the last published round, over clients, after local training; the floor always answers with a "
                "client's most frequent label.",
                [
                    Query(
                        "max by (federation, statistic) "
                        f'(fedhft_federation_score{{{F}, split="personal", moment="after"}})',
                        "{{federation}} {{statistic}}",
                    ),
                    Query(_worst("fedhft_federation_majority_score"), "{{federation}} majority floor"),
                ],
                "percentunit",
            ),
            Panel(
                "Shared score",
                "Of the shared validation rows, before and after local training.",
                [
                    Query(
                        f'max by (federation, moment) (fedhft_federation_score{{{F}, split="shared"}})',
                        "{{federation}} {{moment}}",
                    )
                ],
                "percentunit",
            ),
            Panel(
                "Metrics of the task",
                "Of the last published round; constant is what the best constant answer would score.",
                [
                    Query(
                        f"max by (federation, metric, split, moment) (fedhft_federation_task_metric{{{F}}})",
                        "{{federation}} {{metric}} {{split}} {{moment}}",
                    )
                ],
            ),
            Panel(
                "Loss",
                "Of the last published round, over clients.",
                [
                    Query(
                        f"max by (federation, split, moment, statistic) (fedhft_federation_loss{{{F}}})",
                        "{{federation}} {{split}} {{moment}} {{statistic}}",
                    )
                ],
            ),
        ],
    },
)

COMMUNICATION = Dashboard(
    "fedhft-communication",
    "fedhft: communication",
    "What goes over the wire: bytes, compression, calls, and those that were refused.",
    {
        "Bytes": [
            Panel(
                "Bytes per client and round",
                "Blobs, after coding: what an accepted update takes, and what is fetched for it.",
                [
                    Query(
                        f"federation_direction:fedhft_payload_bytes_per_client_round:ratio15m{{{F}}}",
                        "{{federation}} {{direction}}",
                    )
                ],
                "bytes",
            ),
            Panel(
                "Compression of updates",
                "How many times smaller updates are than the values they keep in float32, and than the whole model.",
                [
                    Query(f"federation:fedhft_compression:ratio15m{{{F}}}", "{{federation}} to its values"),
                    Query(f"federation:fedhft_model_compression:ratio15m{{{F}}}", "{{federation}} to the model"),
                ],
            ),
            Panel(
                "Blobs by payload",
                "Bytes per second after coding, as agents see the direction.",
                [
                    Query(
                        _job("fedhft_payload_bytes_total", "direction, payload"),
                        "{{federation}} {{direction}} {{payload}}",
                    )
                ],
                "Bps",
            ),
            Panel(
                "Updates, and what they would have been",
                "Bytes of accepted updates: sent, as values in float32, and as whole models.",
                [
                    Query(
                        f'sum by (federation) (fedhft_payload_bytes_total{{{F}, direction="up"}})',
                        "{{federation}} sent",
                    ),
                    Query(f"sum by (federation) (fedhft_payload_fp32_bytes_total{{{F}}})", "{{federation}} float32"),
                    Query(
                        f"sum by (federation) (fedhft_payload_model_bytes_total{{{F}}})", "{{federation}} whole model"
                    ),
                ],
                "bytes",
            ),
            Panel(
                "Sockets of services",
                "What the kernel counted, protocol overhead included.",
                [Query(_sum("fedhft_socket_bytes_total", "job, direction"), "{{job}} {{direction}}")],
                "Bps",
            ),
            Panel(
                "Agents that are scraped",
                "What they count themselves: blobs after coding, and what their kernels counted.",
                [
                    Query(_sum("fedhft_agent_payload_bytes_total", "direction, payload"), "{{direction}} {{payload}}"),
                    Query(_sum("fedhft_agent_socket_bytes_total", "direction"), "sockets {{direction}}"),
                ],
                "Bps",
            ),
        ],
        "Calls": [
            Panel(
                "Served calls",
                "Per second, by method and gRPC status; long polls included.",
                [Query(_sum("fedhft_rpc_seconds_count", "method, status"), "{{method}} {{status}}")],
                "reqps",
            ),
            Panel(
                "Duration of calls",
                "95 of 100 calls took less. NextTask waits for work.",
                [Query(_quantile(0.95, "fedhft_rpc_seconds", "method"), "{{method}}")],
                "s",
            ),
            Panel(
                "Calls in flight",
                "By method, on all services.",
                [Query("sum by (method) (fedhft_rpcs_in_flight)", "{{method}}")],
            ),
            Panel(
                "Waiting",
                "Transfers that wait for a place.",
                [Query("sum by (direction) (fedhft_transfers_waiting)", "{{direction}}")],
            ),
            Panel(
                "Time in the queue",
                "Mean wait of transfers and fits before they started, and the 95th percentile.",
                [
                    Query(_mean("fedhft_queue_wait_seconds", "job"), "{{job}} mean"),
                    Query(_quantile(0.95, "fedhft_queue_wait_seconds", "job"), "{{job}} p95"),
                ],
                "s",
            ),
            Panel(
                "Refusals",
                "Calls refused, by error code; what each means is in docs/exit-codes.md.",
                [Query(_sum("fedhft_refusals_total", "code"), "{{code}}")],
                "reqps",
            ),
            Panel(
                "Agents that do not get through",
                "Attempts at a call that did not reach the server, by cause, and refusals that ended a task or a job.",
                [
                    Query(_sum("fedhft_agent_connection_failures_total", "code"), "{{code}}"),
                    Query(_sum("fedhft_agent_refusals_total", "code"), "refused {{code}}"),
                ],
                "reqps",
            ),
            Panel(
                "Coding at agents",
                "Mean time to encode an update, and to decode and add a blob.",
                [Query(_mean("fedhft_agent_coding_seconds", "operation"), "{{operation}}")],
                "s",
            ),
        ],
    },
)

CLIENTS = Dashboard(
    "fedhft-clients",
    "fedhft: clients and memory",
    "Who takes part with what, and how close everything is to its limits.",
    {
        "Clients": [
            Panel(
                "Clients by state",
                "Live, silent (joined, and not heard from) or declined.",
                [Query(_worst("fedhft_federation_clients", "state"), "{{federation}} {{state}}")],
            ),
            Panel(
                "Accepted updates",
                "Per second, by tier.",
                [Query(_job("fedhft_updates_accepted_total", "tier"), "{{federation}} {{tier}}")],
                "reqps",
            ),
            Panel(
                "Enrolled clients",
                "Clients whose agent holds a lease, and leases given anew: to new ones, and after a long absence.",
                [
                    Query("max(fedhft_enrolled_clients)", "enrolled"),
                    Query("sum(increase(fedhft_enrolments_total[15m]))", "enrolments in 15 minutes"),
                ],
            ),
            Panel(
                "Plan: depth",
                "Layers with adapters, by tier.",
                [Query(_worst("fedhft_federation_plan_depth", "tier"), "{{federation}} {{tier}}")],
            ),
            Panel(
                "Plan: rank sum",
                "Ranks of all adapters of a client, added up.",
                [Query(_worst("fedhft_federation_plan_ranks", "tier"), "{{federation}} {{tier}}")],
            ),
            Panel(
                "Plan: density",
                "Share of an adapter's rows that is trained and sent.",
                [Query(_worst("fedhft_federation_plan_density", "tier"), "{{federation}} {{tier}}")],
                "percentunit",
            ),
            Panel(
                "Time of an optimiser step",
                "As clients report it, by tier; and of agents that are scraped.",
                [
                    Query(
                        _mean("fedhft_client_step_seconds", "federation, tier", f"{{{F}}}"), "{{federation}} {{tier}}"
                    ),
                    Query(_mean("fedhft_agent_step_seconds", "instance, tier"), "{{instance}} {{tier}}"),
                ],
                "s",
            ),
            Panel(
                "Agents' updates",
                "What became of what agents trained, where they can be scraped.",
                [
                    Query("sum by (outcome) (fedhft_agent_updates_total)", "{{outcome}}"),
                    Query("sum by (outcome) (fedhft_agent_updates_bounded_total)", "{{outcome}}"),
                ],
            ),
            Panel(
                "Agents in trouble",
                "Jobs that data or model do not fit; state files that were damaged or could not be written; what keeps "
                "the cache of frozen layers from use.",
                [
                    Query("max by (instance, cause) (fedhft_agent_jobs_blocked)", "{{instance}} {{cause}}"),
                    Query("sum by (instance, fault) (fedhft_agent_state_faults_total)", "{{instance}} {{fault}}"),
                    Query(
                        "sum by (instance, fault) (fedhft_agent_prefix_faults_total)", "{{instance}} cache {{fault}}"
                    ),
                ],
            ),
            Panel(
                "Rows through frozen layers",
                "Rows per second that agents read from their caches, or computed, where they can be scraped.",
                [Query(_sum("fedhft_agent_prefix_rows_total", "source"), "{{source}}")],
                "rowsps",
            ),
            Panel(
                "Caches of frozen layers",
                "Bytes on agents' disks.",
                [Query("max by (instance) (fedhft_agent_prefix_bytes)", "{{instance}}")],
                "bytes",
            ),
        ],
        "Memory": [
            Panel(
                "Peak memory of clients",
                "As they report it: the mean of the last hour, and the largest of the last published round, by tier.",
                [
                    Query(
                        f"federation_tier:fedhft_client_peak_memory_bytes:mean1h{{{F}}}", "{{federation}} {{tier}} mean"
                    ),
                    Query(_worst("fedhft_federation_peak_memory_bytes", "tier"), "{{federation}} {{tier}} largest"),
                ],
                "bytes",
            ),
            Panel(
                "Memory of processes",
                "Resident, and the largest it ever was.",
                [
                    Query(
                        "process_resident_memory_bytes * on (job, instance) group_left () fedhft_build_info",
                        "{{instance}}",
                    ),
                    Query("fedhft_process_peak_memory_bytes", "{{instance}} peak"),
                ],
                "bytes",
            ),
            Panel(
                "Memory that processes may use",
                "Share of the limit of the control group, or of the machine's memory.",
                [
                    Query(
                        "process_resident_memory_bytes / (fedhft_process_memory_limit_bytes > 0)",
                        "{{job}} {{instance}}",
                    )
                ],
                "percentunit",
            ),
            Panel(
                "Memory of Redis",
                "Used, and its limit (0 without one).",
                [
                    Query("max(fedhft_store_memory_used_bytes)", "used"),
                    Query("max(fedhft_store_memory_maximum_bytes)", "maximum"),
                ],
                "bytes",
            ),
        ],
        "Surroundings": [
            Panel(
                "Redis answers",
                "1 where it answers and takes writes.",
                [Query("min by (job, instance) (fedhft_store_up)", "{{job}} {{instance}}")],
            ),
            Panel(
                "Append-only file",
                "The state that Redis reports.",
                [Query("max by (state) (fedhft_store_aof_state) == 1", "{{state}}")],
                stat=True,
            ),
            Panel(
                "Calls to Redis",
                "Commands and scripts per second.",
                [Query(_sum("fedhft_store_round_trips_total", "job, instance"), "{{job}} {{instance}}")],
                "ops",
            ),
            Panel(
                "Certificates end in",
                "Of services, and of agents that are scraped; none without TLS.",
                [
                    Query("(fedhft_certificate_expiry_seconds > 0) - time()", "{{job}} {{instance}}"),
                    Query("(fedhft_agent_certificate_expiry_seconds > 0) - time()", "{{job}} {{instance}}"),
                ],
                "s",
            ),
            Panel(
                "Replaced TLS files",
                "Used, or refused because they were not sound.",
                [Query("sum by (instance, outcome) (fedhft_tls_reloads_total)", "{{instance}} {{outcome}}")],
            ),
            Panel(
                "Releases",
                "Processes by release and protocol.",
                [
                    Query(
                        "count by (job, version, protocol) (fedhft_build_info)",
                        "{{job}} {{version}} protocol {{protocol}}",
                    )
                ],
                stat=True,
            ),
        ],
    },
)

CLUSTERS = Dashboard(
    "fedhft-clusters",
    "fedhft: clusters",
    "How clients are grouped, and how that is found out.",
    {
        "Clusters": [
            Panel(
                "Clients of the last round by cluster",
                "Each counts for the cluster of its largest membership.",
                [Query(_worst("fedhft_federation_cluster_participants", "cluster"), "{{federation}} {{cluster}}")],
                width=12,
            ),
            Panel(
                "All clients by cluster",
                "Every joined client, as the clusterer last found it.",
                [Query(_worst("fedhft_cluster_clients", "cluster"), "{{federation}} {{cluster}}")],
                width=12,
            ),
            Panel(
                "Confidence in clusters",
                "Weight of a job's clusters against there being only one.",
                [Query(_worst("fedhft_cluster_confidence"), "{{federation}}")],
            ),
            Panel(
                "Version of memberships",
                "The latest, and the one that the last round used.",
                [
                    Query(_worst("fedhft_memberships_version"), "{{federation}} latest"),
                    Query(_worst("fedhft_federation_memberships_version"), "{{federation}} used"),
                ],
            ),
            Panel(
                "Clusterings",
                "Requests for new memberships by outcome.",
                [Query("sum by (outcome) (fedhft_clusterings_total)", "{{outcome}}")],
            ),
            Panel(
                "Time to fit",
                "Mean time of one fit.",
                [Query(_mean("fedhft_clustering_seconds", ""), "fit")],
                "s",
            ),
        ],
    },
)

DASHBOARDS = (FEDERATION, COMMUNICATION, CLIENTS, CLUSTERS)

WITHOUT_PANEL: Mapping[str, str] = {
    "process_": "the client library's own series: only memory has a panel, the rest is in every process dashboard",
}
"""Series, or what their names begin with, that are on no dashboard, and why."""
