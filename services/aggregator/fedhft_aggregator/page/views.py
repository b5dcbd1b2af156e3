"""What the page is told, as plain values for JSON. Names are those of the Jobs service's messages.

Everything is bounded, however many clients a job has and however many rounds: lists are counted, thinned or paged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from fedhft.aggregation.mixture import strongest
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import MOST_STORED_BYTES
from fedhft.jobs.cluster_reason import reason
from fedhft.jobs.messages import as_dict
from fedhft.methods import Combine
from fedhft.records import OutcomeKind
from fedhft.scoring.metrics import DEFAULTS
from fedhft.v1 import clients_pb2, clustering_pb2, jobs_pb2

_LEFT_OUT = ("set_aside", "clipped", "capped", "opposed", "best")
"""Fields of a round's summary that the page has elsewhere: lists of clients, and the best version."""
_HEADS = ("job", "status", "reason", "paused", "blocked", "submitted_by", "rounds_done", "live", "declined")
MOST_BOUNDED = 200
"""Most clients named in the list of bounded updates."""


def encoded(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def heading(job: jobs_pb2.Job, spec: dict[str, Any]) -> dict[str, Any]:
    """Where a job stands. spec: its stored form; {} where that is damaged."""
    view: dict[str, Any] = {name: getattr(job, name) for name in _HEADS}
    view["clients"] = len(job.clients)
    view["open"] = as_dict(job.open) if job.HasField("open") else None
    view["best"] = as_dict(job.best) if job.HasField("best") else None
    view["rounds_total"] = _part(spec, "rounds", "total", default=0)
    view["method"] = _part(spec, "method", "preset", default="")
    view["model"] = _part(spec, "model", "name", default="")
    view["score"] = _score_name(spec)
    view["final"] = round_view(job.final) if job.HasField("final") else None
    return view


def clusters_view(memberships: clustering_pb2.Memberships) -> dict[str, Any] | None:
    """Sizes of clusters by largest membership, and how sure these memberships are; None before there are any."""
    if not memberships.rows:
        return None
    sizes = [0] * memberships.clusters
    for row in memberships.rows:
        sizes[strongest(row.weights)] += 1
    largest = sum(max(row.weights) for row in memberships.rows) / len(memberships.rows)
    return {
        "version": memberships.version,
        "round": memberships.round,
        "sizes": sizes,
        "mean_max_membership": largest,
        "confidence": memberships.confidence if memberships.HasField("confidence") else None,
        "reason": reason(memberships),
    }


def round_view(summary: jobs_pb2.RoundSummary) -> dict[str, Any]:
    """A round's figures without names of clients, the best version (the heading has it), and what was not measured."""
    full = as_dict(summary)
    return {name: value for name, value in full.items() if value is not None and value != [] and name not in _LEFT_OUT}


def bounded_view(rounds: Iterable[jobs_pb2.RoundSummary]) -> dict[str, Any]:
    """Updates that were not folded as they came, newest round first: who, what, why; and how many are not named."""
    named: list[dict[str, Any]] = []
    count = 0
    for summary in sorted(rounds, key=lambda one: -one.round):
        count += summary.set_aside_count + summary.opposed_count + summary.clipped_count
        here = [
            *((one.client, OutcomeKind.SET_ASIDE.value, one.reason, None) for one in summary.set_aside),
            *((client, OutcomeKind.OPPOSED.value, "", None) for client in summary.opposed),
            *((one.client, OutcomeKind.CLIPPED.value, "", one.factor) for one in summary.clipped),
        ]
        named += [
            {"round": summary.round, "client": client, "what": what, "reason": reason, "factor": factor}
            for client, what, reason, factor in here
        ]
    return {"updates": named[:MOST_BOUNDED], "unnamed": count - len(named[:MOST_BOUNDED])}


def client_view(client: clients_pb2.JobClient) -> dict[str, Any]:
    """One client: its state by its proto name in lower case (`live`), its plan, its memberships."""
    view = as_dict(client)
    state = clients_pb2.JobClient.State.Name(client.state)
    view["state"] = state.removeprefix("STATE_").lower()
    return view


def same_task(spec: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether scores of two jobs can be set side by side: the same base model and the same task."""
    return bool(spec.get("task") == other.get("task") and _part(spec, "model", "name") == _part(other, "model", "name"))


def trains_alone(spec: dict[str, Any]) -> bool:
    """Whether the job's clients share nothing, which makes it the floor of those that do."""
    return bool(_part(spec, "method", "combine", default="") == Combine.NONE.value)


def local_floor(job: str, scored: Sequence[jobs_pb2.RoundSummary]) -> dict[str, Any] | None:
    """The last scores of a job whose clients train alone; None before it has any."""
    for summary in reversed(scored):
        if summary.HasField("personal_before_mean"):
            return {
                "job": job,
                "mean": summary.personal_before_mean,
                "worst_tenth": summary.personal_before_worst_tenth,
            }
    return None


def spec_of(text: str) -> dict[str, Any]:
    """A stored job as plain values; {} where it is damaged."""
    try:
        found = parse_json(text, "stored job", ErrorCode.INVALID_JOB, most_bytes=MOST_STORED_BYTES)
    except FedhftError:
        return {}
    return found if isinstance(found, dict) else {}


def _score_name(spec: dict[str, Any]) -> str:
    """What the job's score measures, for people."""
    named = _part(spec, "task", "metrics", default=())
    usual = DEFAULTS.get(str(_part(spec, "task", "kind", default="")), ())
    first = next(iter(named if isinstance(named, list) and named else usual), "score")
    return str(first).replace("_", " ")


def _part(spec: dict[str, Any], section: str, name: str, default: Any = None) -> Any:
    inner = spec.get(section)
    return inner.get(name, default) if isinstance(inner, dict) else default
