"""Kinds of devices from a TOML file, a table each, and which client has which.

    [devices.phone]
    count = 4                      # of the clients that no other kind names, in the order of their names
    clients = ["anna"]             # or by name
    up = "2 Mbit/s"                # link, also in bytes per second as a number
    down = "10 Mbit/s"

    [[devices.phone.changes]]      # from a round on, everything it computes takes so many times as long
    round = 6
    slower = 10.0

What else a kind has depends on what it is for: virtual time (`simulation.devices`) or processes (`local.devices`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from fedhft.documents import read_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_values import Section
from fedhft.planning.rates import parse_rate

_MOST_RATE = 1e12
_MOST_KINDS = 10_000

Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0, le=_MOST_RATE)]
"""Bytes per second."""


class Change(Section):
    """A device that becomes slower, or faster."""

    round: int = Field(ge=1, description="First round in which it is so.")
    slower: float = Field(gt=0, le=1e6, description="How many times as long computing takes as before.")


class DeviceKind(Section):
    """What every kind of device has."""

    clients: tuple[str, ...] = ()
    count: int = Field(0, ge=0)
    name: str = Field("")
    """The table's, unless it says otherwise."""
    up: Rate = 1e9
    down: Rate = 1e9
    changes: tuple[Change, ...] = ()

    def slowness(self, number: int) -> float:
        """How many times as long computing takes in a round as at first."""
        product = 1.0
        for change in self.changes:
            if change.round <= number:
                product *= change.slower
        return product


Kind = TypeVar("Kind", bound=DeviceKind)


def read_kinds(path: Path, clients: Sequence[str], kind: type[Kind], keys: str) -> Mapping[str, Kind]:
    """The device of every client from a TOML file. keys: the module whose docstring lists a kind's keys.

    Raises FedhftError(INVALID_ARGUMENT) naming the key and what is wrong with it, or that clients and devices do not
    come out even.
    """
    raw = read_toml(path, str(path), ErrorCode.INVALID_ARGUMENT)
    devices = raw.get("devices")
    if set(raw) != {"devices"} or not isinstance(devices, dict) or not 0 < len(devices) <= _MOST_KINDS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, str(path), ", ".join(sorted(raw)) or "nothing",
            f"has other than 1 to {_MOST_KINDS} tables [devices.KIND]", "write one for each kind of device",
        )  # fmt: skip
    try:
        kinds = TypeAdapter(dict[str, kind]).validate_python(devices)  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in ("devices", *first["loc"]))
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f"{path}: {where}: {str(first['msg']).removeprefix('Value error, ')}; correct it (see `{keys}` for the "
            "keys of a device)",
        ) from error
    return assigned(kinds, clients, str(path))


def assigned(kinds: Mapping[str, Kind], clients: Sequence[str], where: str) -> Mapping[str, Kind]:
    """The device of every client, named after its kind: as said, the others by count.

    Raises FedhftError(INVALID_ARGUMENT).
    """
    found: dict[str, Kind] = {}
    known = set(clients)
    kinds = {name: one if one.name else one.model_copy(update={"name": name}) for name, one in kinds.items()}
    for kind, device in kinds.items():
        for client in device.clients:
            if client not in known or client in found:
                problem = "has two devices" if client in found else "is not a client of the job"
                raise FedhftError.field(
                    ErrorCode.INVALID_ARGUMENT, f"{where}: devices.{kind}.clients", client, problem,
                    "name each client of the job once",
                )  # fmt: skip
            found[client] = device
    left = [client for client in sorted(clients) if client not in found]
    count = sum(device.count for device in kinds.values())
    if count != len(left):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, f"{where}: sum of devices.*.count", count,
            f"there are {len(left)} clients that no device names", "make them equal",
        )  # fmt: skip
    counted = [device for device in kinds.values() for _ in range(device.count)]
    return {**found, **dict(zip(left, counted, strict=True))}
