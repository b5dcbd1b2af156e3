"""Signatures: what clients are compared by, a seeded random projection of their gradients or updates.

Feature hashing (Weinberger et al. 2009, arXiv 0902.2206): value i of tensor t is added, with a random sign, to a random
one of `dims` buckets. Sign and bucket come from the specified integer generator, keyed by the job's seed and
the tensor's name, so every client projects alike and nothing but the sum travels. Inner products are kept in
expectation, with a standard deviation of at most about sqrt(2 / dims) for unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from fedhft import seeds
from fedhft.adapter import Float32, Float64
from fedhft.errors import ErrorCode, FedhftError

DIMENSIONS = 256
"""Length of a signature: 1 KiB in float32."""


_TOLERANCE = 1e-3
"""How far rounding to float32 may take the norm of a signature from 1."""


def check_signature(signature: Sequence[float], dims: int = DIMENSIONS, name: str = "signature") -> None:
    """Check that a signature is one that `project` makes: `dims` finite values of norm 1, or zeros.

    Raises FedhftError: NON_FINITE; INVALID_ARGUMENT.
    """
    if len(signature) != dims:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, name, f"{len(signature)} values", f"a signature has {dims}",
            "send the projection of the gradients",
        )  # fmt: skip
    if not all(map(math.isfinite, signature)):
        raise FedhftError(
            ErrorCode.NON_FINITE, f"{name}: has values that are not finite; lower the learning rate or check the data"
        )
    norm = math.sqrt(math.fsum(value * value for value in signature))
    if norm != 0.0 and abs(norm - 1.0) > _TOLERANCE:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, f"norm of {name}", norm, "is neither 1 nor 0", "scale it to unit norm"
        )


def check_halves(halves: Sequence[float], dims: int = DIMENSIONS) -> None:
    """Check the two halves of a signature, one after the other; nothing at all is what earlier releases send.

    Raises FedhftError: NON_FINITE; INVALID_ARGUMENT.
    """
    if not halves:
        return
    if len(halves) != 2 * dims:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "signature_halves", f"{len(halves)} values", f"two halves have {2 * dims}",
            "send one signature of each half of the rows, or none",
        )  # fmt: skip
    check_signature(halves[:dims], dims, "first half of signature")
    check_signature(halves[dims:], dims, "second half of signature")


def joined(first: Float32, second: Float32) -> Float32:
    """unit(u + v), float32; zeros where they cancel out."""
    total = first.astype(np.float64) + second.astype(np.float64)
    norm = float(np.linalg.norm(total))
    return (total / norm if norm > 0.0 else total).astype(np.float32)


def project(tensors: Iterable[tuple[str, Float32]], seed: int, dims: int = DIMENSIONS) -> Float32:
    """Unit-norm float32 signature of length `dims` of named tensors of any shape; all-zero tensors give zeros.

    Names are distinct; the order of the tensors does not matter. Sums run in float64.
    Raises FedhftError(NON_FINITE) naming the tensor, (INVALID_ARGUMENT) for dims < 1 or a name given twice.
    """
    if dims < 1:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "dims", dims, "is not positive", "use 256")
    parts: dict[str, Float64] = {}
    for name, tensor in tensors:
        if name in parts:
            raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "tensor", name, "is given twice", "name each one once")
        values = np.asarray(tensor, np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise FedhftError(
                ErrorCode.NON_FINITE,
                f"signature: tensor {name} has values that are not finite; lower the learning rate or check the data",
            )
        draws = seeds.integers(seeds.seed_of("signature", seed, name), values.size)
        buckets = ((draws >> np.uint64(1)) % np.uint64(dims)).astype(np.int64)
        signed = np.where(draws & np.uint64(1), values, -values)
        parts[name] = np.bincount(buckets, signed, dims).astype(np.float64)
    total = np.zeros(dims, np.float64)
    for name in sorted(parts):
        total += parts[name]
    norm = float(np.linalg.norm(total))
    return (total / norm if norm > 0.0 else total).astype(np.float32)
