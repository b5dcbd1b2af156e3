"""Whether what a job is to begin with fits it: the warm start with which it was submitted."""

from __future__ import annotations

from collections.abc import Sequence

from fedhft.adapter import SHARED, AdapterSchema, cluster_scope
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode

MOST_START_BYTES = 256 << 20
"""Most bytes of a start, of all scopes together: an adapter of 64 million values."""
_SCOPES = (SHARED, cluster_scope(0))


def checked_start(spec: JobSpec, schema_json: str, blobs: Sequence[bytes]) -> dict[str, bytes]:
    """The snapshots of version 0 by scope; none for a job that begins anew. schema_json: the one that is pinned.

    Raises FedhftError: INVALID_JOB when adapter.from and the blobs do not go together, INVALID_ARGUMENT for blobs of
    another scope or version, and what `decode` raises.
    """
    if bool(spec.adapter.origin) != bool(blobs) or (blobs and not schema_json):
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "adapter.from", spec.adapter.origin,
            "the adapter and the schema have to come with the job" if spec.adapter.origin else "says nothing, but an "
            "adapter came with the job", "submit it with `fedhft job submit`, which reads the adapter",
        )  # fmt: skip
    if not blobs:
        return {}
    schema = AdapterSchema.from_json(schema_json)
    found: dict[str, bytes] = {}
    for data in blobs:
        blob = decode(data, schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT)
        if blob.version != 0 or blob.scope not in _SCOPES or blob.scope in found or not blob.delta.finite():
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "start", f"{blob.scope} version {blob.version}",
                f"is not version 0 of {' or '.join(_SCOPES)}, each once and finite", "use `fedhft job submit`",
            )  # fmt: skip
        found[blob.scope] = data
    return found
