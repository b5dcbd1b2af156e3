"""What any request may carry: numbers, digests, scopes and reasons, typed and bounded at the door.

Ids are in `fedhft.ids`; applications in `joining`; updates and figures in `acceptance` and `reports`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from itertools import islice

from fedhft.aggregation.versions import SCOPE
from fedhft.bands import Band
from fedhft.errors import ErrorCode, FedhftError
from fedhft.records import PlanTooLarge
from fedhft.rounds.fetching import Held
from fedhft.v1 import adapter_pb2, federation_pb2

LARGEST_NUMBER = 1 << 53
"""Largest round, version, offset or count: every store and language on the way holds it exactly."""
MOST_REASON = 500
"""Most characters of a reason that people give."""
_MOST_SCOPES = 66
_MOST_TIERS = 1024
_MOST_LAYERS = 4096


def number(field: str, value: int) -> int:
    """A round, version, offset or count. Raises INVALID_ARGUMENT."""
    if not 0 <= value <= LARGEST_NUMBER:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            field,
            value,
            f"is not between 0 and {LARGEST_NUMBER}",
            "send what you were told",
        )
    return value


def blob_digest(value: bytes) -> str:
    """A blob's digest, hex. Raises INVALID_ARGUMENT."""
    if len(value) != 32:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "digest", f"{len(value)} bytes", "is not a SHA-256", "send its 32 bytes"
        )
    return value.hex()


def held_of(request: federation_pb2.NextTaskRequest) -> Held:
    """What an agent says it holds. Raises INVALID_ARGUMENT."""
    whole: dict[str, int] = {}
    parts: dict[str, dict[Band, int]] = {}
    for scope in request.held:
        whole[_scope("held.scope", scope.scope)] = number("held.version", scope.version)
        _check_count("held", whole, _MOST_SCOPES, "scopes")
    for part in request.held_bands:
        bands = parts.setdefault(_scope("held_bands.scope", part.scope), {})
        _check_count("held_bands", parts, _MOST_SCOPES, "scopes")
        bands[Band(part.band.beyond, part.band.depth)] = number("held_bands.version", part.version)
        _check_count("held_bands", bands, _MOST_LAYERS, "bands of a scope")
    return Held(whole, parts, request.takes_bands)


def _scope(field: str, value: str) -> str:
    if not SCOPE.fullmatch(value):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, field, value, "is not a scope", "send those of pulled blobs"
        )
    return value


def _check_count(field: str, found: Sized, most: int, of_what: str) -> None:
    if len(found) > most:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, field, f"more than {most} {of_what}", "no job has as many",
            "send those of this job",
        )  # fmt: skip


def plans_too_large(told: Iterable[adapter_pb2.PlanTooLarge]) -> tuple[PlanTooLarge, ...]:
    """Plans that a client declined; checked against its job in `planning.tiers`."""
    return tuple(
        PlanTooLarge(tier=one.tier, needed=one.needed_bytes, allowed=one.allowed_bytes)
        for one in islice(told, _MOST_TIERS)
    )


def reason(text: str, otherwise: str) -> str:
    """A line of text that a person gave as reason; `otherwise` for none. Raises INVALID_ARGUMENT."""
    if len(text) > MOST_REASON or not text.isprintable():
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "reason", text, "is not a line of text",
            f"write at most {MOST_REASON} printable characters",
        )  # fmt: skip
    return text or otherwise
