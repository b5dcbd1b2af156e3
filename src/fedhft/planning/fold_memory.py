"""How much memory a round's fold takes at most: bounded by schema and job, before any update has come.

With J clusters, values per state V = sum over scopes of a scope's values: factors A (once if shared, else J times), B
and head (J times); products J (out x in) per slot, their largest form (for svd beside the factors); weights J times. R
is the rows of those tensors, N the values of one client's update, and m the tensors of its size that the server's step
carries (momentum 1, adaptive steps 2):

    sums        16 (V + R)          two partial sums, float64: the running one and a block's
    held        (8 + 4 m) V         state, residual and what the step carries, of the version before, float32
    published   (16 + 4 m) V        the targets in float64; state, residual and what is carried, of the version after
    coded       16 S                the largest scope S while it is encoded: values, codes, streams, the blob
    update      16 N                an update: its bytes, decoded, and widened to float64
    collected   64 MiB              for a trimmed mean alone: values of all clients side by side, in passes over the
                                    updates (`aggregation.trimming`), however many clients there are

    begun       8 F                 where means are of whole factors (padded, svd), the F values of those the round
                                    began with, float64

    fold_bytes = sums + held + published + coded + update + collected + begun

An upper bound, not an estimate: factors are smaller than products, and masks leave rows out.
"""

from __future__ import annotations

from fedhft.adapter import AdapterSchema, Part, TensorKey
from fedhft.aggregation.trimming import MEMORY_BYTES
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine


def most_clusters(spec: JobSpec) -> int:
    """Largest number of clusters that the job can come to."""
    wanted = spec.method.clusters
    return wanted if isinstance(wanted, int) else spec.clustering.maximum


def fold_bytes(spec: JobSpec, schema: AdapterSchema) -> int:
    """Most bytes that folding a round of this job takes (see the module); 0 where nothing is shared."""
    method = spec.method
    if method.combine is Combine.NONE:
        return 0
    update = _size([schema.shape(key) for key in schema.keys if key.part in (Part.A, Part.B, Part.HEAD, Part.WEIGHT)])
    shared: list[tuple[int, int]] = []
    own = [schema.shape(key) for key in schema.keys if key.part in (Part.HEAD, Part.WEIGHT)]
    for slot in schema.slots:
        a, b = schema.shape(TensorKey(slot.name, Part.A)), schema.shape(TensorKey(slot.name, Part.B))
        if method.combine in (Combine.PRODUCTS, Combine.SVD):
            own.append((slot.out_features, slot.in_features))
        if method.combine is not Combine.PRODUCTS:
            own.append(b)
            (shared if method.share_a else own).append(a)
    clusters = most_clusters(spec)
    values = _size(shared) + clusters * _size(own)
    rows = sum(rows for rows, _ in shared) + clusters * sum(rows for rows, _ in own)
    carried = 8 * method.server.held
    scope = max(_size(shared), _size(own))
    whole = method.combine in (Combine.PADDED, Combine.SVD)
    begun = 8 * sum(slot.rank * (slot.in_features + slot.out_features) for slot in schema.slots) if whole else 0
    collected = MEMORY_BYTES if method.combine is Combine.TRIMMED_MEAN else 0
    return (16 + 8 + 16 + carried) * values + 16 * rows + 16 * scope + 16 * update + collected + begun


def check_fold_fits(spec: JobSpec, schema: AdapterSchema) -> None:
    """Check that the fold of a schema stays within the job's limit. Raises FOLD_TOO_LARGE, naming the figures."""
    needed, allowed = fold_bytes(spec, schema), spec.limits.fold_memory
    if needed > allowed:
        raise FedhftError(
            ErrorCode.FOLD_TOO_LARGE,
            f"schema: folding {len(schema.slots)} slots, {len(schema.head)} head parameters and {len(schema.weights)} "
            f"weights for up to {most_clusters(spec)} clusters takes up to {needed} bytes, limits.fold_memory allows "
            f"{allowed}; use the job's base model, or submit the job with a larger limits.fold_memory",
        )


def _size(shapes: list[tuple[int, int]]) -> int:
    return sum(rows * cols for rows, cols in shapes)
