"""What a device can do, estimated from what it reports: smoothed, reset when it changes, bounded by what was seen.

    x <- w x + (1 - w) new        w = .8, an exponential moving average
    x <- new                      where new is more than twice x or less than half of it

so that noise is averaged and a device that slows down tenfold is known after one report. A report's durations are worth
no more than the time the server itself saw pass between opening the round and having the update: longer ones are
scaled down to it, and what they leave unexplained is the device's fixed time. So a device cannot make others wait by
claiming to be slow, and one that claims to be fast is planned for by when its updates come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from fedhft.v1 import capacity_pb2

KEPT = 0.8
"""w: weight of the estimate so far."""
JUMP = 2.0
"""Change by more than this factor resets an estimate instead of being averaged into it."""
FASTEST_LAYER_S = 1e-7
"""Seconds per layer-step below which no device is believed: about what an accelerator takes to start a computation."""
SLOWEST_S = 30 * 86400.0
"""Seconds above which no duration is believed."""
_MATTERS = 0.05
"""Share of a round's seconds from which a transfer can change what is worth planning."""
_A_WAIT_S = 5.0
_LEAST_SHARE = 0.1
_LEAST_OF_EPOCH = 0.25
_LEAST_OF_STEPS = 1 / 32
"""Layer-steps go by tokens: a round of few steps may have drawn nothing but short rows. One of an epoch has not."""
_MOST = 1e15
"""No duration, count or number of bytes of one round is larger."""
SLOWEST_LINK = 1.0
FASTEST_LINK = 1e11
"""Bytes per second between which links are believed."""


@dataclass(frozen=True)
class Capacity:
    """What is known of one client's device; None is not known.

    forward, backward: seconds per layer-step (one layer, one batch). fixed: seconds of a round outside of them and of
    transfers. scoring: batches scored in a round that scores. up, down: bytes per second. deepest: the greatest depth
    it has memory for; None: not stated, so any. most_steps: of a round, as its owner allows; None: any. keeps: whether
    it keeps frozen layers' outputs. kept: for depths 1, 2, .., share of its training rows that have passed the layers
    below the last so many; scored_at: depths at which the rows that it scores have (see `kept_rows`). reports:
    measurements so far. energy: joules of its machine in a round; nothing is planned by it.
    """

    forward: float | None = None
    backward: float | None = None
    fixed: float | None = None
    scoring: float | None = None
    up: float | None = None
    down: float | None = None
    deepest: int | None = None
    most_steps: int | None = None
    keeps: bool = False
    kept: tuple[float, ...] = ()
    scored_at: tuple[int, ...] = ()
    reports: int = 0
    energy: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether there is enough to plan by: how fast it trains."""
        return self.forward is not None and self.backward is not None


@dataclass(frozen=True)
class Durations:
    """What a client measured in one round: seconds, and what they were spent on (see capacity.proto).

    forward over forward_layers layer-steps (training, scoring and filling alike), backward over backward_layers; up
    over up_bytes, down over down_bytes; other: everything else from the task to the update. 0 where nothing was done.
    scoring: batches scored. fill: the part of forward that fills the cache. keeps: whether what leaves the frozen
    layers was kept (true where none is frozen, and it would be). energy: joules of the whole machine; 0: not measured.
    """

    forward: float = 0.0
    forward_layers: float = 0.0
    backward: float = 0.0
    backward_layers: float = 0.0
    up: float = 0.0
    up_bytes: int = 0
    down: float = 0.0
    down_bytes: int = 0
    other: float = 0.0
    scoring: float = 0.0
    fill: float = 0.0
    keeps: bool = False
    energy: float = 0.0

    @classmethod
    def of(cls, message: capacity_pb2.Durations) -> Durations:
        """What a report says, not checked: see `problem`."""
        return cls(
            forward=message.forward_seconds,
            forward_layers=message.forward_layer_steps,
            backward=message.backward_seconds,
            backward_layers=message.backward_layer_steps,
            up=message.up_seconds,
            up_bytes=message.up_bytes,
            down=message.down_seconds,
            down_bytes=message.down_bytes,
            other=message.other_seconds,
            scoring=message.scoring_batches,
            fill=message.fill_seconds,
            keeps=message.keeps_frozen_layers,
            energy=message.energy_joules,
        )

    @property
    def total(self) -> float:
        """Seconds of all."""
        return self.forward + self.backward + self.up + self.down + self.other

    def problem(self, depth: int = 0, steps: int = 0, epoch: int = 0) -> str:
        """Why these cannot be durations, naming the field; empty where they can.

        depth, steps: of the plan that was trained, whose passes must be among them; seconds over fewer would make a
        device look slow. epoch: steps of one; 0: not known.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                return f"{field.name} = {value}: is not a finite number of at least 0"
            if value > _MOST:
                return f"{field.name} = {value:g}: is more than {_MOST:g}"
        least = depth * max(_LEAST_OF_STEPS * steps, _LEAST_OF_EPOCH * (steps - steps % epoch) if epoch else 0.0)
        for name in ("forward_layers", "backward_layers"):
            if getattr(self, name) < least:
                told = f"{name} = {getattr(self, name):g}"
                return f"{told}: the plan alone is {depth} layers and {steps} steps"
        return ""


def bounded(durations: Durations, seen: float, sending: float = 0.0) -> Durations:
    """Durations worth the seconds seen from the opening to the update: scaled down, or with the rest in `other`.

    sending: seconds that this update was on its way, as far as the link is known; `up` is of the update before.
    """
    if not seen > 0:  # the store's clock was set back
        return durations
    own = durations.forward + durations.backward + durations.down + durations.other
    there = max(seen - sending, _LEAST_SHARE * seen)
    if own > there:
        scale = there / own
        scaled = {name: getattr(durations, name) * scale for name in ("forward", "backward", "down", "other", "fill")}
        return replace(durations, **scaled)
    return replace(durations, other=durations.other + there - own)


def estimated(known: Capacity, new: Durations) -> Capacity:
    """The estimate after one more report."""
    return replace(
        known,
        forward=_smoothed(known.forward, _per(new.forward, new.forward_layers, FASTEST_LAYER_S, SLOWEST_S)),
        backward=_smoothed(known.backward, _per(new.backward, new.backward_layers, FASTEST_LAYER_S, SLOWEST_S)),
        fixed=_without_leaps(known.fixed, new.other),
        scoring=_scoring(known, new),
        up=_smoothed(known.up, _rate(new.up_bytes, new.up)),
        down=_smoothed(known.down, _rate(new.down_bytes, new.down)),
        keeps=new.keeps,
        reports=known.reports + 1,
        energy=_smoothed(known.energy, new.energy or None),
    )


def was_reset(before: Capacity, after: Capacity, told: Durations) -> bool:
    """Whether a report changed something by so much that plans should be made again. told: what it says.

    A link's rate must have been worth seconds: what a few kilobytes take is mostly latency, and changes all the time.
    """
    passes = ((before.forward, after.forward), (before.backward, after.backward))
    if any(old is not None and new is not None and _jumped(old, new) for old, new in passes):
        return True
    links = ((told.up_bytes, before.up, after.up), (told.down_bytes, before.down, after.down))
    return any(
        old is not None and new is not None and _jumped(old, new) and size / min(old, new) > _MATTERS * told.total
        for size, old, new in links
    )


def _smoothed(known: float | None, new: float | None) -> float | None:
    if new is None or known is None:
        return known if new is None else new
    return new if _jumped(known, new) else KEPT * known + (1.0 - KEPT) * new


def _without_leaps(known: float | None, new: float) -> float:
    """As `_smoothed`, but one long wait counts as little more than twice of what is usual: it may be anything."""
    if known is None:
        return new
    return KEPT * known + (1.0 - KEPT) * min(new, JUMP * known + _A_WAIT_S)


def _scoring(known: Capacity, new: Durations) -> float | None:
    """Batches scored, at most as many as the forward passes of the round were long enough for."""
    most = new.forward_layers  # a batch passes a layer at least
    return min(new.scoring, most) or known.scoring


def _jumped(known: float, new: float) -> bool:
    return new > JUMP * known or known > JUMP * new


def _per(seconds: float, count: float, least: float, most: float) -> float | None:
    return min(max(seconds / count, least), most) if count else None


def _rate(size: int, seconds: float) -> float | None:
    if not size:
        return None
    return min(max(size / seconds, SLOWEST_LINK), FASTEST_LINK) if seconds else FASTEST_LINK
