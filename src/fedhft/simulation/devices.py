"""Devices of simulated clients: how long work takes on them, by a virtual clock.

A file of them is as `planning.device_kinds` says, and each kind has:

    [devices.phone]
    forward = 0.12                 # seconds per layer and batch, forward
    backward = 0.10                # and backward
    fixed = 1.0                    # seconds of a round that no plan changes
    deepest = 3                    # the greatest depth it has memory for; left out: any
    keeps_frozen_layers = true     # whether frozen layers are run once per row
    absent = [3, 4]                # rounds in which it delivers nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedhft.job_values import Section
from fedhft.planning.device_kinds import DeviceKind, read_kinds
from fedhft.v1 import capacity_pb2

_MOST_SECONDS = 1e6

Seconds = Annotated[float, Field(ge=0, le=_MOST_SECONDS)]


class Profile(DeviceKind):
    """One kind of device."""

    forward: float = Field(gt=0, le=_MOST_SECONDS)
    backward: float = Field(gt=0, le=_MOST_SECONDS)
    fixed: Seconds = 0.0
    deepest: int | None = Field(None, ge=1)
    keeps_frozen_layers: bool = True
    absent: tuple[int, ...] = ()

    def durations(self, number: int, work: LocalWork) -> capacity_pb2.Durations:
        """What a device of this kind measures for some work in a round; links are told where bytes are moved."""
        slow = self.slowness(number)
        forward, backward = slow * self.forward, slow * self.backward
        return capacity_pb2.Durations(
            forward_seconds=forward * work.forward,
            forward_layer_steps=work.forward,
            backward_seconds=backward * work.backward,
            backward_layer_steps=work.backward,
            other_seconds=self.fixed,
            scoring_batches=work.scoring,
            fill_seconds=forward * work.fill,
            keeps_frozen_layers=self.keeps_frozen_layers,
        )


class LocalWork(Section):
    """Work of one client in one round, in layer-steps: a layer passed for one batch of the job. Rows are alike here.

    forward: those of filling (`fill`) among them. scoring: batches scored.
    """

    forward: float
    backward: float
    fill: float = 0.0
    scoring: float = 0.0

    @classmethod
    def of(cls, *, layers: int, depth: int, steps: int, scoring: float, fill: float, keeps: bool) -> LocalWork:
        """Of a plan: steps optimiser steps at a depth, `scoring` batches scored; fill: batches that the frozen layers
        have not seen yet.
        """
        run = depth if keeps else layers
        filled = (layers - depth) * fill if keeps else 0.0
        return cls(
            forward=run * (steps + scoring) + filled, backward=float(depth * steps), fill=filled, scoring=scoring
        )


def read_profiles(path: Path, clients: Sequence[str]) -> Mapping[str, Profile]:
    """Profiles of all clients from a TOML file. Raises FedhftError(INVALID_ARGUMENT), see `read_kinds`."""
    return read_kinds(path, clients, Profile, "fedhft.simulation.devices")
