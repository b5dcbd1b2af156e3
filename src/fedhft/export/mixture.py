"""One exported adapter: which clusters it is made of, and whose scores describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhft.aggregation.mixture import strongest


@dataclass(frozen=True)
class ExportedMixture:
    """One exported adapter: a weighting of a version's clusters, and the clients whose scores describe it.

    name: of its folder. weights: over the clusters, sum 1. of_one_client: whether it is the mixture of the client in
    `clients` rather than a cluster. of_everybody: whether it is one mixture for all clients.
    """

    name: str
    weights: tuple[float, ...]
    clients: tuple[str, ...]
    of_one_client: bool = False
    of_everybody: bool = False

    @classmethod
    def of_cluster(
        cls, cluster: int, clusters: int, clients: Sequence[str], memberships: Mapping[str, Sequence[float]]
    ) -> ExportedMixture:
        """A cluster alone. Its clients are those whose largest membership it is; all clients when it is the only one.

        clients: of the whole job. memberships: client -> weights over clusters.
        """
        members = tuple(
            client
            for client in clients
            if clusters == 1 or (client in memberships and strongest(memberships[client]) == cluster)
        )
        return cls(f"cluster-{cluster}", tuple(float(cluster == other) for other in range(clusters)), members)

    @classmethod
    def of_client(cls, client: str, weights: Sequence[float]) -> ExportedMixture:
        """The mixture that one client is served."""
        return cls(f"client-{client}", tuple(weights), (client,), of_one_client=True)

    @classmethod
    def of_all(
        cls, clusters: int, memberships: Mapping[str, Sequence[float]], masses: Mapping[str, float]
    ) -> ExportedMixture:
        """One mixture for everybody: sum_i q_i p_i / sum_i q_i, as the final evaluation scores it.

        masses: client -> q_i. Clients without memberships count for all clusters alike.
        """
        even = (1.0 / clusters,) * clusters
        total = sum(masses.values())
        weights = [
            sum(mass * memberships.get(client, even)[cluster] for client, mass in sorted(masses.items())) / total
            for cluster in range(clusters)
        ]
        return cls("mass-weighted", tuple(weights), tuple(sorted(masses)), of_everybody=True)
