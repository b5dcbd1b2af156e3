"""The dashboard of jobs: where each stands, its rounds and scores."""

from __future__ import annotations

from deploy.grafana.model import Dashboard, F, Panel, Query, gauge_of, mean_of

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
                    Query(gauge_of("fedhft_federation_round"), "{{federation}}"),
                    Query(gauge_of("fedhft_federation_rounds_planned"), "{{federation}} asks for"),
                ],
                stat=True,
            ),
            Panel(
                "Held up",
                "Jobs that somebody or something keeps from going on, and aggregators that drive each job (1).",
                [
                    Query(gauge_of("fedhft_federation_paused"), "{{federation}} paused"),
                    Query(gauge_of("fedhft_federation_blocked"), "{{federation}} blocked"),
                    Query(f"sum by (federation) (fedhft_federation_lease_held{{{F}}})", "{{federation}} driven"),
                ],
            ),
        ],
        "Rounds": [
            Panel(
                "Updates of the round",
                "Clients sampled, updates recorded, and how many the round needs at its deadline.",
                [
                    Query(gauge_of("fedhft_federation_round_asked"), "{{federation}} sampled"),
                    Query(gauge_of("fedhft_federation_round_delivered"), "{{federation}} delivered"),
                    Query(gauge_of("fedhft_federation_round_quorum"), "{{federation}} quorum"),
                ],
            ),
            Panel(
                "Age of the round",
                "Time since the open or last round opened, and until the open one is due.",
                [
                    Query(f"time() - {gauge_of('fedhft_federation_round_opened_seconds')}", "{{federation}} age"),
                    Query(f"{gauge_of('fedhft_federation_round_deadline_seconds')} - time()", "{{federation}} due in"),
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
                    Query(mean_of("fedhft_fold_seconds", ""), "fold"),
                    Query(mean_of("fedhft_decoding_seconds", ""), "decode"),
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
                    Query(gauge_of("fedhft_federation_majority_score"), "{{federation}} majority floor"),
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
