"""Plans in which no device does more than one that is at least as able in every way.

Whole steps alone could have it otherwise: a slower device may come out one layer deeper because its last step just
fits. More layers, or more layer-steps, is more work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedhft.planning.devices import Device
from fedhft.planning.planned import Bound, Planned


def never_more_for_worse(
    devices: Sequence[Device],
    plans: Sequence[Planned],
    layers: int,
    planned: Callable[[int, int, int, bool], Planned],
) -> list[Planned]:
    """The plans, capped. planned: a device's plan at (its place, depth, steps, whether it scores), with its seconds."""
    able = np.array([device.ability(layers) for device in devices])
    able = able[:, (able != able[0]).any(axis=0)]  # what is the same for all decides nothing
    alike = np.array([(float(device.steps), float(device.batches), float(device.extra)) for device in devices])
    # Sorted so that whoever is better comes first, with its final plan by the time it caps others.
    order = np.lexsort((np.arange(len(devices)), *-able.T, -able.sum(axis=1)))
    able, alike = np.ascontiguousarray(able[order].T), alike[order].T
    depth = np.array([plans[place].depth for place in order])
    work = np.array([plans[place].depth * plans[place].steps for place in order])
    settled = list(plans)
    for rank, place in enumerate(order):
        better = np.arange(rank)
        for column in alike:
            better = better[column[better] == column[rank]]
        for column in able:
            better = better[column[better] >= column[rank]]
        own = plans[place]
        if len(better) and (own.depth > depth[better].min() or own.depth * own.steps > work[better].min()):
            capped = _at_most(own, int(depth[better].min()), int(work[better].min()))
            if capped.steps:
                capped = replace(planned(int(place), capped.depth, capped.steps, own.scores), bound=own.bound)
            settled[place], depth[rank], work[rank] = capped, capped.depth, capped.depth * capped.steps
    return settled


def _at_most(own: Planned, depth: int, work: int) -> Planned:
    """So much of a plan; its seconds are not worked out. Nothing, where a single step would be more."""
    depth = min(own.depth, depth)
    steps = min(own.steps, work // depth) if depth else 0
    return replace(own, depth=depth, steps=steps) if steps else Planned(0, 0, False, 0.0, Bound.ABSENT)
