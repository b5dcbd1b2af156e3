"""How much of a published average one client makes up: what its owner may bound."""

from __future__ import annotations

from collections.abc import Sequence

from fedhft.records import Participant, RoundRecord


def cluster_masses(current: RoundRecord) -> tuple[float, ...]:
    """sum_k q_k p_kj over the round's participants, for every cluster j."""
    parts = current.participants.values()
    return tuple(float(sum(part.weight * part.memberships[j] for part in parts)) for j in range(current.clusters))


def largest_share(part: Participant, masses: Sequence[float], trim: float = 0.0) -> float:
    """max_j q_i p_ij / sum_k q_k p_kj: near 1 where a cluster's average is little else than this client's update.

    masses: as `cluster_masses` gives them. Participants that will not deliver are counted, so the share in what is
    published can be larger, by at most participants / quorum when samples are equal. trim: what a trimmed mean cuts off
    at either end; what is left is averaged by at least 1 - 2 trim of the weight, so the share in it is so much larger.
    """
    shares = [part.weight * weight / mass for weight, mass in zip(part.memberships, masses, strict=True) if mass > 0]
    return min(1.0, max(shares, default=0.0) / (1.0 - 2.0 * trim))
