"""The dashboard of who takes part, and of memory and surroundings."""

from __future__ import annotations

from deploy.grafana.model import Dashboard, F, Panel, Query, gauge_of, job_rate, mean_of, rates

CLIENTS = Dashboard(
    "fedhft-clients",
    "fedhft: clients and memory",
    "Who takes part with what, and how close everything is to its limits.",
    {
        "Clients": [
            Panel(
                "Clients by state",
                "Live, silent (joined, and not heard from) or declined.",
                [Query(gauge_of("fedhft_federation_clients", "state"), "{{federation}} {{state}}")],
            ),
            Panel(
                "Accepted updates",
                "Per second, by tier.",
                [Query(job_rate("fedhft_updates_accepted_total", "tier"), "{{federation}} {{tier}}")],
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
                [Query(gauge_of("fedhft_federation_plan_depth", "tier"), "{{federation}} {{tier}}")],
            ),
            Panel(
                "Plan: rank sum",
                "Ranks of all adapters of a client, added up.",
                [Query(gauge_of("fedhft_federation_plan_ranks", "tier"), "{{federation}} {{tier}}")],
            ),
            Panel(
                "Plan: density",
                "Share of an adapter's rows that is trained and sent.",
                [Query(gauge_of("fedhft_federation_plan_density", "tier"), "{{federation}} {{tier}}")],
                "percentunit",
            ),
            Panel(
                "Where a client's time goes",
                "Seconds of a client in the last published round by activity, mean over clients.",
                [Query(gauge_of("fedhft_federation_round_client_seconds", "activity"), "{{federation}} {{activity}}")],
                "s",
            ),
            Panel(
                "Waiting for the slowest",
                "Share of the time to a round's last update that clients wait, mean over clients.",
                [Query(gauge_of("fedhft_federation_round_waiting_ratio"), "{{federation}}")],
                "percentunit",
            ),
            Panel(
                "Plan: time of a round",
                "By the plans in force, of jobs that plan by capacity.",
                [Query(gauge_of("fedhft_federation_plan_horizon_seconds"), "{{federation}}")],
                "s",
            ),
            Panel(
                "Time of an optimiser step",
                "As clients report it, by tier; and of agents that are scraped.",
                [
                    Query(
                        mean_of("fedhft_client_step_seconds", "federation, tier", f"{{{F}}}"), "{{federation}} {{tier}}"
                    ),
                    Query(mean_of("fedhft_agent_step_seconds", "instance, tier"), "{{instance}} {{tier}}"),
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
                [Query(rates("fedhft_agent_prefix_rows_total", "source"), "{{source}}")],
                "rowsps",
            ),
            Panel(
                "Caches of frozen layers",
                "Bytes on agents' disks.",
                [Query("max by (instance) (fedhft_agent_prefix_bytes)", "{{instance}}")],
                "bytes",
            ),
            Panel(
                "Power of agents' machines",
                "While tasks run, spread over the last minutes, all programs together; 0 where a machine counts none.",
                [Query(rates("fedhft_agent_energy_joules_total", "instance"), "{{instance}}")],
                "watt",
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
                    Query(gauge_of("fedhft_federation_peak_memory_bytes", "tier"), "{{federation}} {{tier}} largest"),
                ],
                "bytes",
            ),
            Panel(
                "Predicted memory of agents",
                "What agents foretell for the plan that they carry out, where they can be scraped; 0 without a budget.",
                [
                    Query("max by (instance) (fedhft_agent_predicted_memory_bytes)", "{{instance}}"),
                ],
                "bytes",
            ),
            Panel(
                "Plans that did not fit",
                "Plans that clients declined because they do not fit their memory, by tier; and of agents that can be "
                "scraped.",
                [
                    Query(
                        f"sum by (federation, tier) (fedhft_plans_too_large_total{{{F}}})", "{{federation}} {{tier}}"
                    ),
                    Query("sum by (instance) (fedhft_agent_plans_too_large_total)", "{{instance}}"),
                ],
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
                [Query(rates("fedhft_store_round_trips_total", "job, instance"), "{{job}} {{instance}}")],
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
