"""Why a job has as many clusters as it has, and how sure that is: a line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedhft.v1 import clustering_pb2, jobs_pb2


def common_view(job: jobs_pb2.Job) -> str:
    """What one model for everybody scores beside the clusters' own; empty where there is no choice."""
    final = job.final
    if job.memberships.clusters < 2 or not final.HasField("shared_mass_weighted"):
        return ""
    return (
        f"shared score of one model for everybody (mass-weighted): {final.shared_mass_weighted:.3f}, of clients' own "
        f"mixtures: {final.shared_before:.3f}; fedhft job export {job.job} --view mass-weighted writes the former"
    )


def reason(memberships: clustering_pb2.Memberships) -> str:
    """The line; empty before there are memberships."""
    if not memberships.version:
        return ""
    count = f"{memberships.clusters} cluster{'' if memberships.clusters == 1 else 's'}"
    if memberships.HasField("confidence") and memberships.clusters > 1:
        count += f", confidence {memberships.confidence:.2f}"
    if not memberships.HasField("choice"):
        return f"{count}; the job, or an earlier release, fixed the number"
    choice = memberships.choice
    return f"{count}; {_shown(choice)}{_moving(memberships.clusters, choice)}"


def _shown(choice: clustering_pb2.ClusterChoice) -> str:
    halves = f"{choice.voters} clients voted, whose halves agree by {choice.reliability:.2f}"
    if not choice.says_something:
        return f"{halves}, which is too little to tell clusters by"
    if choice.found == 1:
        return f"{halves}: no split predicts unseen halves better than all clients together do"
    taken = next((one for one in choice.tried if one.clusters == choice.found), None)
    gain = "" if taken is None else f" (gain {taken.gain:.2f}, t = {taken.t:.1f})"
    return f"{halves}: {choice.found} clusters predict unseen halves best{gain}"


def _moving(clusters: int, choice: clustering_pb2.ClusterChoice) -> str:
    if choice.candidate and choice.candidate != clusters:
        return (
            f"; {choice.candidate} asked for by the last {choice.times} clusterings"
            if choice.times > 1
            else (f"; {choice.candidate} asked for by the last clustering")
        )
    if choice.says_something and choice.found < clusters:
        return "; what there is still gains enough to be kept"
    return ""
