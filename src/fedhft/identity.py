"""Who a certificate says its holder is: a URI of SPIFFE's form, so that cert-manager and SPIRE can issue them too.

    spiffe://<trust domain>/agent/<client id>
    spiffe://<trust domain>/operator/<name>
    spiffe://<trust domain>/aggregator
    spiffe://<trust domain>/clusterer

SPIFFE-ID specification: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fedhft.errors import ErrorCode, FedhftError

SCHEME = "spiffe://"
_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""The rule of client ids (ids.py), for operators too."""
_FORMS = "agent/<client id>, operator/<name>, aggregator, clusterer"


class Role(StrEnum):
    """What the holder of a certificate may be."""

    AGENT = "agent"
    OPERATOR = "operator"
    AGGREGATOR = "aggregator"
    CLUSTERER = "clusterer"

    @property
    def is_named(self) -> bool:
        """Whether there are many of them, told apart by a name. The replicas of a service share one identity."""
        return self in (Role.AGENT, Role.OPERATOR)

    @property
    def serves(self) -> bool:
        """Whether others connect to it."""
        return self in (Role.AGGREGATOR, Role.CLUSTERER)


@dataclass(frozen=True, order=True)
class Identity:
    """A role within a trust domain, and for agents and operators a name. Raises FedhftError(INVALID_ARGUMENT)."""

    trust_domain: str
    role: Role
    name: str = ""
    """An agent's client id, an operator's name; empty for services."""

    def __post_init__(self) -> None:
        parse_trust_domain(self.trust_domain)
        if self.role.is_named != bool(self.name) or (self.name and not _NAME.fullmatch(self.name)):
            raise _refused("identity", self.path)

    @property
    def path(self) -> str:
        """Within its trust domain: `agent/clinic-1`, `aggregator`."""
        return f"{self.role}/{self.name}" if self.role.is_named or self.name else str(self.role)

    @property
    def uri(self) -> str:
        """As a certificate has it."""
        return f"{SCHEME}{self.trust_domain}/{self.path}"


def parse_identity(uri: str) -> Identity:
    """The identity of a URI. Raises FedhftError(INVALID_ARGUMENT) for what is not one of ours."""
    domain, slash, path = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not slash:
        raise _refused("identity", uri)
    return parse_path(domain, path)


def parse_path(trust_domain: str, path: str) -> Identity:
    """The identity of a path such as `agent/clinic-1` in a trust domain. Raises FedhftError(INVALID_ARGUMENT)."""
    role, slash, name = path.partition("/")
    if role not in set(Role) or (slash and not name):
        raise _refused("identity", path)
    return Identity(trust_domain, Role(role), name)


def parse_trust_domain(text: str) -> str:
    """A trust domain's name. Raises FedhftError(INVALID_ARGUMENT)."""
    if not _DOMAIN.fullmatch(text):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "trust domain", text, "is not a trust domain",
            "use 1 to 255 characters of a-z 0-9 . _ - such as clinics.example",
        )  # fmt: skip
    return text


def _refused(field: str, value: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, field, value, "is not an identity",
        f"write one of {_FORMS}; names have 1 to 63 characters of a-z 0-9 . _ - and start with a letter or digit",
    )  # fmt: skip
