"""The dashboard of what goes over the wire."""

from __future__ import annotations

from deploy.grafana.model import Dashboard, F, Panel, Query, job_rate, mean_of, quantile, rates

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
                        job_rate("fedhft_payload_bytes_total", "direction, payload"),
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
                [Query(rates("fedhft_socket_bytes_total", "job, direction"), "{{job}} {{direction}}")],
                "Bps",
            ),
            Panel(
                "Agents that are scraped",
                "What they count themselves: blobs after coding, and what their kernels counted.",
                [
                    Query(rates("fedhft_agent_payload_bytes_total", "direction, payload"), "{{direction}} {{payload}}"),
                    Query(rates("fedhft_agent_socket_bytes_total", "direction"), "sockets {{direction}}"),
                ],
                "Bps",
            ),
        ],
        "Calls": [
            Panel(
                "Served calls",
                "Per second, by method and gRPC status; long polls included.",
                [Query(rates("fedhft_rpc_seconds_count", "method, status"), "{{method}} {{status}}")],
                "reqps",
            ),
            Panel(
                "Duration of calls",
                "95 of 100 calls took less. NextTask waits for work.",
                [Query(quantile(0.95, "fedhft_rpc_seconds", "method"), "{{method}}")],
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
                    Query(mean_of("fedhft_queue_wait_seconds", "job"), "{{job}} mean"),
                    Query(quantile(0.95, "fedhft_queue_wait_seconds", "job"), "{{job}} p95"),
                ],
                "s",
            ),
            Panel(
                "Refusals",
                "Calls refused, by error code; what each means is in docs/exit-codes.md.",
                [Query(rates("fedhft_refusals_total", "code"), "{{code}}")],
                "reqps",
            ),
            Panel(
                "Agents that do not get through",
                "Attempts at a call that did not reach the server, by cause, and refusals that ended a task or a job.",
                [
                    Query(rates("fedhft_agent_connection_failures_total", "code"), "{{code}}"),
                    Query(rates("fedhft_agent_refusals_total", "code"), "refused {{code}}"),
                ],
                "reqps",
            ),
            Panel(
                "Coding at agents",
                "Mean time to encode an update, and to decode and add a blob.",
                [Query(mean_of("fedhft_agent_coding_seconds", "operation"), "{{operation}}")],
                "s",
            ),
        ],
    },
)
