"""A round's update as bytes: what training changed; and the error that coding leaves for the next round."""

from __future__ import annotations

from fedhft.adapter import AdapterSchema, MaskedDelta
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine, Start
from fedhft.telemetry import metrics
from fedhft.training.feedback import Carried, carried_after, carries_error, with_carried
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode, encode


def code_update(
    spec: JobSpec, schema: AdapterSchema, delta: MaskedDelta, carried: Carried, task: pb.TrainTask, rank: int
) -> tuple[bytes, Carried]:
    """(serialised AdapterBlob, error carried from now on); no bytes if the method shares nothing.

    rank: most columns of A and B that the delta has; 0: all.
    Raises FedhftError(UPDATE_TOO_LARGE) when the server would refuse the update for its size.
    """
    if spec.method.combine is Combine.NONE:
        return b"", carried
    carries = carries_error(spec)
    decay = spec.wire.error_feedback_decay
    wanted = with_carried(delta, carried, decay) if carries else delta
    with metrics.AGENT_CODING_SECONDS.labels(operation="encode").time():
        blob = encode(
            wanted,
            schema,
            kind=adapter_pb2.BLOB_KIND_UPDATE,
            encoding=spec.wire.up,
            group=spec.wire.group,
            levels=spec.wire.levels,
            version=int(task.view.version),
            rank=rank,
            rounding_seed=int(task.seed) if spec.method.start is Start.RESTART else None,  # where no error is carried
        )
    if 0 < task.max_update_bytes < len(blob):
        raise FedhftError.field(
            ErrorCode.UPDATE_TOO_LARGE, "limits.update_bytes", task.max_update_bytes,
            f"the update takes {len(blob)} bytes", "raise the limit or lower the plan's density or depth",
        )  # fmt: skip
    if carries:
        sent = decode(blob, schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
        carried = carried_after(carried, wanted, sent, decay)
    return blob, carried
