"""The dashboard of how clients are grouped."""

from __future__ import annotations

from deploy.grafana.model import Dashboard, Panel, Query, gauge_of, mean_of

CLUSTERS = Dashboard(
    "fedhft-clusters",
    "fedhft: clusters",
    "How clients are grouped, and how that is found out.",
    {
        "Clusters": [
            Panel(
                "Clients of the last round by cluster",
                "Each counts for the cluster of its largest membership.",
                [Query(gauge_of("fedhft_federation_cluster_participants", "cluster"), "{{federation}} {{cluster}}")],
                width=12,
            ),
            Panel(
                "All clients by cluster",
                "Every joined client, as the clusterer last found it.",
                [Query(gauge_of("fedhft_cluster_clients", "cluster"), "{{federation}} {{cluster}}")],
                width=12,
            ),
            Panel(
                "Confidence in clusters",
                "Weight of a job's clusters against there being only one.",
                [Query(gauge_of("fedhft_cluster_confidence"), "{{federation}}")],
            ),
            Panel(
                "Version of memberships",
                "The latest, and the one that the last round used.",
                [
                    Query(gauge_of("fedhft_memberships_version"), "{{federation}} latest"),
                    Query(gauge_of("fedhft_federation_memberships_version"), "{{federation}} used"),
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
                [Query(mean_of("fedhft_clustering_seconds", ""), "fit")],
                "s",
            ),
        ],
    },
)
