"""Devices of simulated clients: how long work takes on them, by a virtual clock.

A file of profiles is TOML:

    [devices.phone]
    count = 4                      # of the clients that no other profile names, in the order of their names
    forward = 0.12                 # seconds per layer and batch, forward
    backward = 0.10                # and backward
    fixed = 1.0                    # seconds of a round that no plan changes
    up = "2 Mbit/s"                # link, also in bytes per second as a number
    down = "10 Mbit/s"
    deepest = 3                    # the greatest depth it has memory for; left out: any
    keeps_frozen_layers = true     # whether frozen layers are run once per row
    absent = [3, 4]                # rounds in which it delivers nothing

    [[devices.phone.changes]]      # from a round on, everything it computes takes so many times as long
    round = 6
    slower = 10.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from fedhft.documents import read_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_values import Section
from fedhft.planning.rates import parse_rate
from fedhft.v1 import capacity_pb2

_MOST_RATE = 1e12
_MOST_SECONDS = 1e6


Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0, le=_MOST_RATE)]
Seconds = Annotated[float, Field(ge=0, le=_MOST_SECONDS)]


class Change(Section):
    """A device that becomes slower, or faster."""

    round: int = Field(ge=1, description="First round in which it is so.")
    slower: float = Field(gt=0, le=1e6, description="How many times as long computing takes as before.")


class Profile(Section):
    """One kind of device."""

    clients: tuple[str, ...] = ()
    count: int = Field(0, ge=0)
    forward: float = Field(gt=0, le=_MOST_SECONDS)
    backward: float = Field(gt=0, le=_MOST_SECONDS)
    fixed: Seconds = 0.0
    up: Rate = 1e9
    down: Rate = 1e9
    deepest: int | None = Field(None, ge=1)
    keeps_frozen_layers: bool = True
    absent: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()

    def slowness(self, number: int) -> float:
        """How many times as long computing takes in a round as at first."""
        product = 1.0
        for change in self.changes:
            if change.round <= number:
                product *= change.slower
        return product

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
            keeps_frozen_layers=self.keeps_frozen_layers,
        )


class LocalWork(Section):
    """Work of one client in one round, in layer-steps: a layer passed for one batch of the job.

    scoring: batches scored.
    """

    forward: float
    backward: float
    scoring: float = 0.0

    @classmethod
    def of(cls, *, layers: int, depth: int, steps: int, scoring: float, fill: float, keeps: bool) -> LocalWork:
        """Of a plan: steps optimiser steps at a depth, `scoring` batches scored; fill: batches that the frozen layers
        have not seen yet.
        """
        run = depth if keeps else layers
        filled = (layers - depth) * fill if keeps else 0.0
        return cls(forward=run * (steps + scoring) + filled, backward=float(depth * steps), scoring=scoring)


class _Profiles(Section):
    devices: dict[str, Profile] = Field(min_length=1, max_length=10_000)


def read_profiles(path: Path, clients: Sequence[str]) -> Mapping[str, Profile]:
    """Profiles of all clients from a TOML file.

    Raises FedhftError(INVALID_ARGUMENT) naming the key and what is wrong with it, or that clients and profiles do not
    come out even.
    """
    raw = read_toml(path, str(path), ErrorCode.INVALID_ARGUMENT)
    try:
        profiles = _Profiles.model_validate(raw).devices
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f"{path}: {where}: {str(first['msg']).removeprefix('Value error, ')}; correct it "
            "(see `fedhft.simulation.devices` for the keys of a profile)",
        ) from error
    return assigned(profiles, clients, str(path))


def assigned(profiles: Mapping[str, Profile], clients: Sequence[str], name: str) -> Mapping[str, Profile]:
    """The profile of every client: as named, the others by count. Raises FedhftError(INVALID_ARGUMENT)."""
    found: dict[str, Profile] = {}
    known = set(clients)
    for kind, profile in profiles.items():
        for client in profile.clients:
            if client not in known or client in found:
                problem = "has two profiles" if client in found else "is not a client of the job"
                raise FedhftError.field(
                    ErrorCode.INVALID_ARGUMENT, f"{name}: devices.{kind}.clients", client, problem,
                    "name each client of the job once",
                )  # fmt: skip
            found[client] = profile
    left = [client for client in sorted(clients) if client not in found]
    count = sum(profile.count for profile in profiles.values())
    if count != len(left):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, f"{name}: sum of devices.*.count", count,
            f"there are {len(left)} clients that no profile names", "make them equal",
        )  # fmt: skip
    counted = [profile for profile in profiles.values() for _ in range(profile.count)]
    return {**found, **dict(zip(left, counted, strict=True))}
