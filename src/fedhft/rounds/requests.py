"""What any request may carry: numbers, digests, scopes and reasons, typed and bounded at the door.

Ids are in `fedhft.ids`; applications in `joining`; updates and figures in `acceptance` and `reports`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from fedhft.aggregation.versions import SCOPE
from fedhft.errors import ErrorCode, FedhftError
from fedhft.records import PlanTooLarge
from fedhft.v1 import adapter_pb2, federation_pb2

LARGEST_NUMBER = 1 << 53
"""Largest round, version, offset or count: every store and language on the way holds it exactly."""
MOST_REASON = 500
"""Most characters of a reason that people give."""
_MOST_SCOPES = 66
_MOST_TIERS = 1024


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


def held_scopes(held: Iterable[federation_pb2.HeldScope]) -> dict[str, int]:
    """Scope -> version that an agent holds completely. Raises INVALID_ARGUMENT."""
    found: dict[str, int] = {}
    for scope in held:
        if not SCOPE.fullmatch(scope.scope):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "held.scope", scope.scope, "is not a scope", "send those of pulled blobs"
            )
        found[scope.scope] = number("held.version", scope.version)
        if len(found) > _MOST_SCOPES:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "held", f"more than {_MOST_SCOPES} scopes", "no job has as many",
                "send those of this job",
            )  # fmt: skip
    return found


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
