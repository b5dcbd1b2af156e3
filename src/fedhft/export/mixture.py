"""One exported adapter: which clusters it is made of, and whose scores describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhft.aggregation.mixture import strongest


@dataclass(frozen=True)
class ExportedMixture:
    """One exported adapter: a weighting of a version's clusters, and the clients whose scores describe it.

    name: of its folder. weights: over the clusters, sum 1. of_one_client: whether it is the mixture of the client in
    `clients` rather than a cluster.
    """

    name: str
    weights: tuple[float, ...]
    clients: tuple[str, ...]
    of_one_client: bool = False

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
