"""How much memory a plan takes on one device at most, and how it is carried out so that this is within a budget.

A pass over r rows, padded to w tokens, with p places whose outputs count, takes

    pass(r, w, p) = fixed + r (token w + pair w^2) + place p        bytes beside the weights

token holds a layer's activations, times the layers in training; pair the scores of attention; place the logits, as many
as the vocabulary has tokens where a language model is trained. The four figures are measured on the device
(`training.memory.measured`), for passes that train, that train with layers run twice (checkpointing), and that score or
fill the cache of frozen layers. With

    held       anonymous memory of the process, once the model is set to the plan: interpreter, libraries, rows, state,
               adapters, and layers in training whose values had to be converted
    mapped     weights that are read where they are on the disk: clean pages, resident while they are used
    N          values in training: AdamW's two moments are 8 N, gradients are in the pass; the update is coded with 20 N
    layer      what a fill has in memory of a frozen layer beyond the layers in training, which it leaves out
    spare      for pages of program code in use at once, and what the allocator cannot give back

the most memory is

    peak = held + mapped + spare + max(8 N + pass_train(r, w, p), 20 N, layer + pass_score(r', w, p'))

r is the rows of a batch, or of a part of it, r' those scored at once. Gradients of parts are added up before the
optimiser's step, each weighed by its targets, so that the step is that of the whole batch. Parts are as large as fits.
Only where not even one row fits are layers run twice. Neither changes what is trained, except that dropout is drawn for
each part; what would change it, less precise values, is for the job to choose. All memory beyond the least is given to
passes, so more memory never makes parts smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOMENTS_BYTES = 8
"""Bytes per value in training beside its gradient: AdamW's two moments, float32."""
CODING_BYTES = 20
"""Bytes per value sent while an update is coded: its start, difference, what is carried, what is sent, and its code."""
SPARE_BYTES = 24 << 20


@dataclass(frozen=True)
class PassCost:
    """Bytes of one pass beside the weights; see the module."""

    fixed: float
    token: float
    pair: float
    place: float

    def bytes(self, rows: int, width: int, places: int) -> int:
        """Of `rows` rows padded to `width` tokens, with `places` outputs that count among them."""
        return int(self.fixed + rows * (self.token * width + self.pair * width * width) + self.place * places)


@dataclass(frozen=True)
class Costs:
    """What passes cost at one depth. recomputed: training with layers run twice."""

    training: PassCost
    recomputed: PassCost
    scoring: PassCost


@dataclass(frozen=True)
class Load:
    """What a device has in memory for a plan whatever its passes are, and the largest rows it passes.

    held, mapped, layer: bytes; trained, sent: values; see the module. batch: rows of an optimiser's step. scored: rows
    scored at once. width, places: of the longest row. code: pages of program code that are resident, which go when
    memory is short: no part of the budget but for what is spare, but of the resident set.
    """

    held: int
    mapped: int
    layer: int
    trained: int
    sent: int
    batch: int
    scored: int
    width: int
    places: int
    code: int = 0


@dataclass(frozen=True)
class Arrangement:
    """How a plan is carried out. training, scoring: bytes that a pass may take beside the weights, None: any.

    recompute: whether layers in training are run twice. predicted: the peak, bytes; resident: of the process's resident
    set, code included; both 0 where there was no budget.
    """

    costs: Costs | None = None
    training: int | None = None
    scoring: int | None = None
    recompute: bool = False
    predicted: int = 0
    resident: int = 0

    def training_parts_of(self, widths: Sequence[int], places: Sequence[int]) -> list[slice]:
        """Parts of a batch that is trained on; widths, places: of its rows, in order."""
        if self.costs is None:
            return [slice(0, len(widths))]
        return parts(widths, places, self.costs.recomputed if self.recompute else self.costs.training, self.training)

    def scoring_parts_of(self, widths: Sequence[int], places: Sequence[int]) -> list[slice]:
        """Parts of rows that are scored, likewise."""
        if self.costs is None:
            return [slice(0, len(widths))]
        return parts(widths, places, self.costs.scoring, self.scoring)


UNBOUNDED = Arrangement()
"""Whole batches: where no memory is stated."""
_ROW_BY_ROW = PassCost(1, 0, 0, 0)
LEAST = Arrangement(Costs(_ROW_BY_ROW, _ROW_BY_ROW, _ROW_BY_ROW), training=0, scoring=0, recompute=True)
"""A row at a time, layers in training run twice: for what has to be worked out before a smaller plan can be had."""


@dataclass(frozen=True)
class Unfit:
    """A plan that does not fit: the least it needs, and what there is, bytes."""

    needed: int
    allowed: int


def arranged(load: Load, costs: Costs, memory: int) -> Arrangement | Unfit:
    """The way to carry out a plan within `memory` bytes, if there is one."""
    state = load.held + load.mapped + SPARE_BYTES
    moments = MOMENTS_BYTES * load.trained
    one = (1, load.width, load.places)
    least_training = min(costs.training.bytes(*one), costs.recomputed.bytes(*one))
    others = max(CODING_BYTES * load.sent, load.layer + costs.scoring.bytes(*one))
    least = state + max(moments + least_training, others)
    if least > memory:
        return Unfit(least, memory)
    room = memory - state
    recompute = costs.training.bytes(*one) > room - moments
    training = costs.recomputed.bytes(*one) if recompute else room - moments
    scoring = room - load.layer
    trains = costs.recomputed if recompute else costs.training
    used_training = min(training, _of(trains, load.batch, load))
    used_scoring = min(scoring, _of(costs.scoring, load.scored, load))
    peak = state + max(moments + used_training, CODING_BYTES * load.sent, load.layer + used_scoring)
    return Arrangement(costs, training, scoring, recompute, peak, peak - SPARE_BYTES + load.code)


def parts(widths: Sequence[int], places: Sequence[int], cost: PassCost, room: int | None) -> list[slice]:
    """Consecutive rows, cut so that a pass over each part takes at most `room` bytes; a part has a row at least."""
    if room is None:
        return [slice(0, len(widths))]
    cuts = [0]
    widest = counted = 0
    for row, (width, count) in enumerate(zip(widths, places, strict=True)):
        widest, counted = max(widest, width), counted + count
        if row > cuts[-1] and cost.bytes(row - cuts[-1] + 1, widest, counted) > room:
            cuts.append(row)
            widest, counted = width, count
    return [slice(first, last) for first, last in zip(cuts, [*cuts[1:], len(widths)], strict=True)]


def _of(cost: PassCost, rows: int, load: Load) -> int:
    return cost.bytes(rows, load.width, rows * load.places)
