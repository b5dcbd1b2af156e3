"""What restart methods fold into base weights: a product of factors, or a dense matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft.adapter import Float32, Part, Slot, TensorKey


def product_of(tensors: Mapping[TensorKey, Float32], slot: Slot) -> Float32 | None:
    """LEFT RIGHT^T + PRODUCT of a slot, (out x in), float32 from float64 sums; None when all are absent."""
    left = tensors.get(TensorKey(slot.name, Part.LEFT))
    right = tensors.get(TensorKey(slot.name, Part.RIGHT))
    dense = tensors.get(TensorKey(slot.name, Part.PRODUCT))
    if left is not None and right is not None:
        product = left.astype(np.float64) @ right.astype(np.float64).T
        return (product if dense is None else product + dense).astype(np.float32)
    return dense
