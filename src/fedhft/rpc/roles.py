"""Who may call what: one row per method. A method without a row is refused to everybody who has shown a certificate."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import Identity, Role

_FEDERATION = (
    "Enroll", "Preview", "GetOffer", "Join", "Decline", "NextTask", "PullBlob", "PushUpdate", "ReportEvaluation",
    "Leave",
)  # fmt: skip
_JOBS = (
    "Submit", "Get", "List", "Clients", "Watch", "Cancel", "Pause", "Resume", "Delete", "Export", "Blob", "Revoke",
    "Events", "KnownClients", "RemoveClient", "ExplainPlan",
)  # fmt: skip
_CLUSTERING = ("UpdateMemberships", "GetMemberships", "Describe")

ROLE_OF_METHOD: Mapping[str, Role] = {
    **{f"/fedhft.v1.Federation/{name}": Role.AGENT for name in _FEDERATION},
    **{f"/fedhft.v1.Jobs/{name}": Role.OPERATOR for name in _JOBS},
    **{f"/fedhft.v1.Clustering/{name}": Role.AGGREGATOR for name in _CLUSTERING},
}
"""The one role whose certificates may call a method, by the method's full name."""

_HEALTH = "/grpc.health.v1.Health/"


PAGE_ROLE = Role.OPERATOR
"""Who may look at the aggregator's page: whoever may read jobs."""


def is_open(method: str) -> bool:
    """Whether any certificate of the authority will do: health says nothing that its caller could misuse."""
    return method.startswith(_HEALTH)


def check_role(method: str, identity: Identity) -> None:
    """Raises FedhftError(NOT_AUTHORISED) unless this role may call this method."""
    _check(f"the method {method}", ROLE_OF_METHOD.get(method), identity)


def check_viewer(identity: Identity) -> None:
    """Raises FedhftError(NOT_AUTHORISED) unless this role may look at the aggregator's page."""
    _check("the page", PAGE_ROLE, identity)


def _check(what: str, wanted: Role | None, identity: Identity) -> None:
    if identity.role is not wanted:
        whom = f"is for the role {wanted}" if wanted else "is for nobody"
        raise FedhftError.field(
            ErrorCode.NOT_AUTHORISED, "certificate", identity.uri, f"{what} {whom}",
            "call it with a certificate of that role",
        )  # fmt: skip
