"""Profiles of simulated devices: as people write them, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.planning.rates import parse_rate, written_rate
from fedhft.simulation.devices import LocalWork, Profile, read_profiles

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "devices.toml"
NAMES = [f"client-{number}" for number in range(8)]
ONE = "[devices.box]\ncount = 8\nforward = 0.1\nbackward = 0.1\n"


def test_the_example_gives_every_client_a_device() -> None:
    found = read_profiles(EXAMPLE, NAMES)
    assert [found[name].forward for name in NAMES] == [0.01] * 3 + [0.03] * 3 + [0.1] * 2
    phone = found["client-7"]
    assert (phone.up, phone.down, phone.deepest, phone.absent) == (125e3, 625e3, 2, (4,))
    assert [phone.slowness(number) for number in (1, 5, 6, 9)] == [1.0, 1.0, 2.0, 2.0]


def test_named_clients_come_before_counted_ones(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(ONE.replace("8", "7") + '[devices.slow]\nclients = ["client-2"]\nforward = 1.0\nbackward = 1.0\n')
    found = read_profiles(path, NAMES)
    assert {name for name, profile in found.items() if profile.forward == 1.0} == {"client-2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE + "speed = 3\n", "devices.box.speed"),
        (ONE.replace("0.1", "0"), "devices.box.forward"),
        (ONE.replace("0.1", "nan"), "holds nan, which is not a finite number"),
        (ONE + 'up = "fast"\n', "'fast' is not a rate; write \"2 Mbit/s\""),
        (ONE.replace("8", "1" + 15 * "0"), "sum of devices.*.count = 1000000000000000: there are 8 clients"),
        (ONE.replace("8", "7"), "sum of devices.*.count = 7: there are 8 clients that no device names"),
        (ONE + 'clients = ["nobody"]\n', "devices.box.clients = 'nobody': is not a client of the job"),
        (ONE + "[[devices.box.changes]]\nround = 0\nslower = 2\n", "devices.box.changes.0.round"),
        ("", "devices"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(text)
    with pytest.raises(FedhftError) as refused:
        read_profiles(path, NAMES)
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("text", "wanted"), [("8 bit/s", 1.0), ("2 Mbit/s", 250e3), ("300 kB/s", 300e3), ("1.5GB/s", 1.5e9), (42, 42)]
)
def test_rates_are_read(text: object, wanted: float) -> None:
    assert parse_rate(text) == wanted


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.125, "1 bit/s"), (124.99, "1 kbit/s"), (250e3, "2 Mbit/s"), (124.96e6, "1 Gbit/s"), (1e11, "800 Gbit/s"),
        (124.9e3, "999 kbit/s"), (250e9, "2000 Gbit/s"),
    ],
)  # fmt: skip
def test_rates_are_written_as_they_are_read(rate: float, text: str) -> None:
    assert written_rate(rate) == text
    assert parse_rate(text) == pytest.approx(rate, rel=1e-2)


def test_work_takes_what_its_layer_steps_take() -> None:
    profile = Profile(forward=0.1, backward=0.2, fixed=1.0)
    kept = LocalWork.of(layers=6, depth=2, steps=10, scoring=4, fill=14, keeps=True)
    assert (kept.forward, kept.backward) == (2 * 14 + 4 * 14, 20.0)
    whole = LocalWork.of(layers=6, depth=2, steps=10, scoring=4, fill=14, keeps=False)
    assert (whole.forward, whole.backward) == (6 * 14, 20.0)
    told = profile.durations(1, kept)
    assert told.forward_seconds == pytest.approx(8.4)
    assert (told.backward_seconds, told.other_seconds, told.scoring_batches) == (4.0, 1.0, 4.0)
