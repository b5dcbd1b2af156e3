"""Whether a plan fits a client's memory, and how it is carried out there; see `planning.peak` for the equations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from fedhft.plan import AdapterPlan
from fedhft.planning.memory import trained_values
from fedhft.planning.peak import SPARE_BYTES, UNBOUNDED, Arrangement, Costs, Load, PassCost, Unfit, arranged
from fedhft.process.residence import residence
from fedhft.training.batches import SCORING_BATCH, EncodedRows
from fedhft.training.device.state import random_numbers_apart
from fedhft.training.lean_imports import without_compiler
from fedhft.training.masks import masked_keys
from fedhft.training.memory.measured import cost_of
from fedhft.training.network import Network
from fedhft.training.prefix.cache import FILL_BATCH
from fedhft.training.scores import PLACES_AT_ONCE
from fedhft.training.tasks.interface import place_targets

_TRIED_TOKENS = 128
"""Longest row that is tried: what longer ones cost follows."""
_TRIED_PLACES = 9


def fitted(
    network: Network, rows: EncodedRows, plan: AdapterPlan, batch: int, scored: int, memory: int
) -> Arrangement | Unfit:
    """How a plan is carried out within `memory` bytes (0: any), if it can be. rows: at least one, the longest of which
    is the longest of all; batch: rows per step; scored: rows of the largest set that is scored.

    Sets the network to the plan's depth, unless that alone would take too much.
    """
    network.arrangement = UNBOUNDED
    if not memory:
        return UNBOUNDED
    weights = network.weights(plan.depth)
    least = residence().anonymous + network.unread(plan.depth) + weights.mapped + SPARE_BYTES
    if least > memory:
        return Unfit(least, memory)
    network.load({}, plan.depth, 0, plan.rank)
    longest = int(rows.lengths.argmax())
    costs = costs_of(network, trials(rows, longest), plan)
    trained = trained_values(plan, network.schema)
    now = residence()
    most = PLACES_AT_ONCE if network.task.counts_places else SCORING_BATCH
    load = Load(
        held=now.anonymous,
        mapped=weights.mapped,
        layer=weights.layer,
        trained=trained,
        sent=trained,
        batch=batch,
        scored=max(min(FILL_BATCH, batch), min(most, scored)),
        width=int(rows.lengths[longest]),
        places=int(rows.sizes.max()),
        code=now.code,
    )
    return arranged(load, costs, memory)


def costs_of(network: Network, tried: Trials, plan: AdapterPlan) -> Costs:
    """What passes cost at the depth in use. Nothing of the network changes, nor what is drawn at random later."""

    def score(count: int, tokens: int, places: int) -> None:
        with torch.no_grad():
            network.trial(tried.of(count, tokens, places))

    def train(count: int, tokens: int, places: int) -> None:
        rows = tried.of(count, tokens, places)
        for parameter in parameters:
            parameter.grad = None
        wanted = torch.from_numpy(rows.wanted(np.arange(count))).to(network.device)
        network.task.loss(network.trial(rows), wanted).backward()

    kept = {
        key: np.arange(plan.rows_allowed(key, network.schema), dtype=np.int32) for key in masked_keys(network, plan)
    }
    try:
        with without_compiler(), random_numbers_apart(network.device):
            network.model.eval()
            scoring = cost_of(score, tried.width, tried.many)
            found: list[PassCost] = []
            for recompute in (False, True):
                network.arrangement = Arrangement(recompute=recompute)
                with torch.enable_grad(), network.trainable(plan, kept, None) as parameters:
                    network.training_mode()
                    found.append(cost_of(train, tried.width, tried.many))
    finally:
        network.arrangement = UNBOUNDED
    return Costs(found[0], found[1], scoring)


@dataclass(frozen=True)
class Trials:
    """Rows to try: pieces of one row, of at most `width` tokens and `many` places."""

    rows: EncodedRows
    row: int
    width: int
    many: int

    def of(self, count: int, tokens: int, places: int) -> EncodedRows:
        """The first tokens of the row, `count` times, with `places` of their outputs counting in all."""
        one = self.rows.rows[self.row]
        types = None if one.types is None else one.types[:tokens]
        short = replace(one, ids=one.ids[:tokens], types=types, segments=())
        if one.places is None:
            return replace(self.rows, rows=(short,) * count, targets=self.rows.targets[[self.row] * count])
        shares = [places // count + (number < places % count) for number in range(count)]
        return replace(
            self.rows,
            rows=tuple(replace(short, places=np.arange(share, dtype=np.int32)) for share in shares),
            targets=place_targets([np.zeros(share, np.int32) for share in shares]),
        )


def trials(rows: EncodedRows, row: int) -> Trials:
    """Pieces of a row of `rows`."""
    width = min(_TRIED_TOKENS, int(rows.lengths[row]))
    many = 1 if rows.rows[row].places is None else min(_TRIED_PLACES, max(1, width // 2))
    return Trials(rows, row, width, many)
