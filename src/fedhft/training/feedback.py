"""Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): what coding drops is sent next time.

    sent_t = decode(encode(delta_t + decay * carried_{t-1}));   carried_t = delta_t + decay * carried_{t-1} - sent_t

Sound only where a coordinate means the same in the next round, so not for restart methods, whose A is redrawn, nor
where factors are decomposed anew (svd). A row outside this round's mask keeps its (decayed) error until the row is sent
again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft.adapter import Float32, MaskedDelta, MaskedMatrix, TensorKey
from fedhft.job import JobSpec
from fedhft.methods import Combine, Start

Carried = Mapping[TensorKey, Float32]
"""Error by tensor, (rows x cols); an absent tensor carries none."""


def carries_error(spec: JobSpec) -> bool:
    """Whether the job's method and wire settings allow error feedback."""
    method = spec.method
    persists = method.start is Start.CONTINUE and method.combine is not Combine.SVD
    return spec.wire.error_feedback and persists and method.combine is not Combine.NONE


def with_carried(delta: MaskedDelta, carried: Carried, decay: float) -> MaskedDelta:
    """The delta plus the decayed error of its own rows."""
    tensors = {}
    for key, matrix in delta:
        error = carried.get(key)
        if error is None:
            tensors[key] = matrix
        else:
            error = _with_columns(error, matrix.cols)
            rows = error if matrix.index is None else error[matrix.index]
            values = (matrix.values + np.float32(decay) * rows).astype(np.float32)
            tensors[key] = MaskedMatrix(matrix.rows, matrix.cols, matrix.index, values)
    return MaskedDelta(tensors)


def _with_columns(error: Float32, cols: int) -> Float32:
    """An error of the first `cols` columns: a client's rank may have changed since."""
    if error.shape[1] == cols:
        return error
    cut = np.zeros((len(error), cols), np.float32)
    common = min(error.shape[1], cols)
    cut[:, :common] = error[:, :common]
    return cut


def carried_after(carried: Carried, wanted: MaskedDelta, sent: MaskedDelta, decay: float) -> dict[TensorKey, Float32]:
    """Errors after sending `sent` instead of `wanted` (delta plus decayed error); tensors without error are omitted."""
    after: dict[TensorKey, Float32] = {key: (np.float32(decay) * error) for key, error in carried.items()}
    for key, matrix in wanted:
        error = matrix.values - sent.tensors[key].values
        whole = after.get(key)
        if whole is not None:
            whole = _with_columns(whole, matrix.cols)
        else:
            if not error.any():
                continue
            whole = np.zeros((matrix.rows, matrix.cols), np.float32)
        whole[matrix.kept_rows] = error
        after[key] = whole
    return {key: error for key, error in after.items() if error.any()}
