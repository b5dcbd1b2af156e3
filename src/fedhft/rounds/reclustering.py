"""When to ask for new memberships, and whether those that came can be used.

Memberships are computed once after each round they are wanted for, and hold from the next round on. They may come late
(the clusterer answers after its caller gave up); the version published meanwhile then lacks their clusters.
"""

from __future__ import annotations

from fedhft.job import JobSpec
from fedhft.methods import SignatureKind
from fedhft.records import MembershipRecord, VersionRecord


def wants_memberships(spec: JobSpec, after_round: int, latest: MembershipRecord | None) -> bool:
    """Whether to ask the clusterer after a round (0: before the first).

    Anchor signatures come with Join, so there are memberships from the start; update signatures are used only after
    clustering.warmup_rounds folds. A repeated fold does not ask again for memberships its round already has.
    """
    if not spec.method.is_clustered:
        return False
    if latest is not None and latest.round >= after_round:
        return False
    if spec.method.signature is SignatureKind.ANCHOR:
        return True
    return after_round >= spec.clustering.warmup_rounds


def wanted_clusters(spec: JobSpec) -> int:
    """Number of clusters J that a job asks for; 0 leaves it to the data."""
    return spec.method.clusters if isinstance(spec.method.clusters, int) else 0


def usable_memberships(latest: MembershipRecord | None, base: VersionRecord | None) -> MembershipRecord | None:
    """Memberships for a round that starts from `base`: the latest, or uniform ones where they came too late for it.

    None stands for the single cluster before any clustering.
    """
    if latest is None or base is None or latest.clusters == base.clusters:
        return latest
    if base.clusters == 1:
        return None
    return MembershipRecord(version=0, round=0, clusters=base.clusters, rows={})
