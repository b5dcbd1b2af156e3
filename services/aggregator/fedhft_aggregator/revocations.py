"""What a request to revoke a certificate may say."""

from __future__ import annotations

import re

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import parse_identity
from fedhft.records import Revocation
from fedhft.v1 import jobs_pb2

_SERIAL = re.compile(r"[0-9a-fA-F]{1,40}")
"""RFC 5280: a serial number has at most 20 octets."""
_LONGEST_REASON = 500
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, which a certificate without an end has."""


def revocation_of(request: jobs_pb2.RevokeRequest) -> tuple[str, Revocation]:
    """The serial number, as certificates are compared by it, and the entry. Raises FedhftError(INVALID_ARGUMENT)."""

    def refused(field: str, value: object, problem: str, fix: str) -> FedhftError:
        return FedhftError.field(ErrorCode.INVALID_ARGUMENT, field, value, problem, fix)

    if not _SERIAL.fullmatch(request.serial) or int(request.serial, 16) == 0:
        raise refused("serial", request.serial, "is not a serial number", "give 1 to 40 hexadecimal digits")
    if not 0 < request.not_after_ms <= _LAST_MS:
        raise refused("not_after_ms", request.not_after_ms, "is not a time", "give the certificate's end")
    if len(request.reason) > _LONGEST_REASON:
        raise refused("reason", request.reason, "is too long", f"use at most {_LONGEST_REASON} characters")
    identity = parse_identity(request.identity)
    revocation = Revocation(identity=identity.uri, not_after_ms=request.not_after_ms, reason=request.reason)
    return format(int(request.serial, 16), "x"), revocation
