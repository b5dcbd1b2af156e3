"""`fedhft job plan`: devices as they might be, read from a file, and the table of plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhft.cli.job_plan import print_plan, read_what_if
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import capacity_pb2, plans_pb2


def test_supposed_devices_are_read_with_rates_as_text(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text('[devices.all]\nslower = 2\n[devices.ash]\nup = "2 Mbit/s"\ndown = 5e5\ndeepest = 3\n')
    assert read_what_if(path) == [
        plans_pb2.WhatIf(slower=2.0),
        plans_pb2.WhatIf(client="ash", up=250e3, down=5e5, deepest=3),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds something other than tables"),
        ("x = 1\n", "holds something other than tables"),
        ("devices = 3\n", "holds something other than tables"),
        ("[devices]\nash = 3\n", "devices.ash = 3: has keys that cannot be supposed"),
        ("[devices.ash]\nspeed = 3\n", "has keys that cannot be supposed; use slower, up, down, deepest"),
        ('[devices.ash]\nup = "fast"\n', "'fast' is not a rate"),
        ("[devices.ash]\nslower = 0\n", "slower = 0 is not a number above 0"),
        ("[devices.ash]\ndeepest = 0\n", "deepest = 0 is not a number above 0"),
        ("[devices.ash]\ndeepest = 1.5\n", "cannot be read"),
        ("[devices.ash]\ndeepest = 99999999999\n", "cannot be read"),
        ("[devices.ash]\ndown = true\n", "down = True is not a number above 0"),
        ("[devices.ash]\nslower = [1]\n", "slower = [1] is not a number above 0"),
    ],
)
def test_what_cannot_be_supposed_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(text)
    with pytest.raises(FedhftError) as refused:
        read_what_if(path)
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
    assert str(path) in refused.value.message
    assert said in refused.value.message


def test_every_part_of_a_rounds_seconds_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe has room for all columns
    busy = plans_pb2.ClientPlan(
        client="ash", depth=2, steps=5, epoch_steps=20, scores=True, seconds=31.5, planned_seconds=30.8,
        training_seconds=16.25, scoring_seconds=8.5, fill_seconds=4.125, link_seconds=2.0625, fixed_seconds=0.5625,
        why="has memory for 2",
        capacity=capacity_pb2.Capacity(forward_ms=12.0, backward_ms=24.0, reports=3),
    )  # fmt: skip
    idle = plans_pb2.ClientPlan(client="oak", epoch_steps=20, bound="absent", why="too slow")
    told = plans_pb2.ExplainPlanResponse(
        round=3, reason="the first", horizon_seconds=31.5, rounds=12.0, waiting=0.25, layers=6, clients=[busy, idle]
    )
    print_plan("tickets", told)
    shown = capsys.readouterr().out
    said = " ".join(shown.split())
    assert (
        "plans made for round 3 (the first), for rounds of 31.5 s (of which a client waits 25% for the slowest" in said
    )
    assert "about 12 to the gain target" in said
    ash, oak = (next(line for line in shown.splitlines() if line.strip().startswith(name)) for name in ("ash", "oak"))
    for part in (
        "2/6",
        "5/20",
        "yes",
        "30.8",
        "31.5",
        "16.2",
        "8.5",
        "4.12",
        "2.06",
        "0.562",
        "12 + 24",
        "has memory for 2",
    ):
        assert part in ash
    assert oak.split()[1:] == ["-", "0/20", "no", *7 * ["-"], "-", "too", "slow"]


def test_energy_is_shown_where_a_client_measured_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    ash = plans_pb2.ClientPlan(client="ash", capacity=capacity_pb2.Capacity(energy_joules=1234.5))
    told = plans_pb2.ExplainPlanResponse(reason="the first", clients=[ash, plans_pb2.ClientPlan(client="oak")])
    print_plan("tickets", told)
    shown = capsys.readouterr().out
    assert "J of a round" in shown
    assert next(line for line in shown.splitlines() if "ash" in line).split()[-1] == "1234"
    print_plan("tickets", plans_pb2.ExplainPlanResponse(reason="the first", clients=told.clients[1:]))
    assert "J of a round" not in capsys.readouterr().out


def test_where_nothing_is_planned_the_reason_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan("tickets", plans_pb2.ExplainPlanResponse(reason="no client has joined yet"))
    assert capsys.readouterr().out == "tickets: no client has joined yet\n"
