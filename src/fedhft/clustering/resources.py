"""Devices as a further coordinate of clustering, where a job wants it (`clustering.by = "data+resources"`).

    z_i   logarithms of seconds per layer-step, bytes per second up and down, each less its median over the clients that
          told it, within FARTHEST of it, over the root of their mean square; 0 where one did not tell
    r_i   z_i / sqrt(K), of K figures: its mean square length over all clients is 1 where all are told and differ
    s_i   <- unit(s_i, w r_i)          w = RESOURCES; the halves u_i, v_i likewise, each with the whole of r_i

so that alike devices come together as far as alike data do. All that a device is is in both of its halves: groups of
devices that are clearly apart are found even where data say nothing. A false figure hardly moves the median, and what
it stretches the spread by is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedhft.adapter import Float32, Float64

RESOURCES = 1.0
"""w: weight of a device's part against that of its data."""
FARTHEST = math.log(30.0)
"""A device that is 30 times as fast as the median counts as any that is faster still."""
_ALIKE = 1e-9
"""Spread, in logarithms, below which devices are alike."""


def profiles_of(told: Mapping[str, Sequence[float | None]]) -> dict[str, Float64]:
    """r by client, of figures > 0 that were told (None: not)."""
    if not told:
        return {}
    logs = np.array([[math.log(value) if value else np.nan for value in row] for row in told.values()], np.float64)
    known = np.isfinite(logs)
    count = np.maximum(known.sum(axis=0), 1)
    middle = np.array(
        [np.median(column[has]) if has.any() else 0.0 for column, has in zip(logs.T, known.T, strict=True)]
    )
    apart = np.clip(np.where(known, logs - middle, 0.0), -FARTHEST, FARTHEST)
    spread = np.sqrt((apart**2).sum(axis=0) / count)
    scaled = np.where(spread > _ALIKE, apart / np.maximum(spread, _ALIKE), 0.0)
    return dict(zip(told, scaled / math.sqrt(scaled.shape[1]), strict=True))


def with_resources(signatures: Mapping[str, Float32], profiles: Mapping[str, Float64]) -> dict[str, Float32]:
    """Signatures (D values) with their devices (D + K); K zeros for a client without a profile."""
    return {client: _joined(signature, profiles.get(client), profiles) for client, signature in signatures.items()}


def halves_with_resources(halves: Mapping[str, Float32], profiles: Mapping[str, Float64]) -> dict[str, Float32]:
    """The two halves of a client one after the other (2 D values), each with its device (2 (D + K)).

    A half of zeros has nothing to say, and stays so.
    """
    found = {}
    for client, both in halves.items():
        parts = np.split(both, 2)
        silent = not all(part.any() for part in parts)
        own = None if silent else profiles.get(client)
        found[client] = np.concatenate([_joined(part, own, profiles) for part in parts])
    return found


def _joined(signature: Float32, own: Float64 | None, profiles: Mapping[str, Float64]) -> Float32:
    size = len(next(iter(profiles.values()))) if profiles else 0
    length = float(np.linalg.norm(signature))
    data = np.asarray(signature, np.float64) / length if length else np.asarray(signature, np.float64)
    device = np.zeros(size) if own is None else RESOURCES * own
    joined = np.concatenate([data, device])
    total = float(np.linalg.norm(joined))
    return np.asarray(joined / total if total else joined, np.float32)
