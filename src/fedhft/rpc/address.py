"""Addresses as people write them, parsed at every door: HOST:PORT, with an IPv6 host in brackets.

Nothing heavy is imported here, so that settings can check their addresses before gRPC is loaded.
"""

from __future__ import annotations

import ipaddress
import re

from fedhft.errors import ErrorCode, FedhftError

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
"""A host name or an IPv4 address; underscores, because container networks have them."""


def parse_address(text: str, field_name: str) -> tuple[str, int]:
    """Split host:port (or [v6]:port); the host keeps its brackets. Raises FedhftError(INVALID_ARGUMENT)."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1])
    plain = _NAME.fullmatch(host) is not None
    if not (bracketed or plain) or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            field_name,
            text,
            "is not an address",
            "write host:port, for example 0.0.0.0:50051 or [::1]:50051",
        )
    return host, int(port)


def parse_host(text: str, field_name: str) -> str:
    """A host without a port; an IPv6 address with or without brackets, returned without.

    Raises FedhftError(INVALID_ARGUMENT).
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not (_is_ipv6(bare) or (bare == text and _NAME.fullmatch(text))):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            field_name,
            text,
            "is not a host",
            "write a name or an address without a port, for example 0.0.0.0 or ::1",
        )
    return bare


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on a host. A name other than localhost may be anywhere."""
    bare = host[1:-1] if host.startswith("[") else host
    if bare.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
