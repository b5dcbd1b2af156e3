"""Joules of a task: counters that wrap, sensors that are sampled, and what cannot be read or cannot be."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fedhft_agent.energy import MOST_WATTS, NO_METER, Counter, EnergyMeter, Sampled, Source, machine_meter

from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import capacity_pb2


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Readings:
    """What a counter or sensor says, one after the other, the last for ever."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    def __call__(self) -> float | None:
        return self.values.pop(0) if self.values[1:] else self.values[0]


def zone(root: Path, name: str, joules: float, kind: str = "package-0", most: float = 262_143.0) -> Path:
    folder = root / "class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder


def rails(root: Path, name: str, labels: Sequence[str], volts: float = 5.0, amperes: float = 2.0) -> Path:
    folder = root / "class/hwmon" / name
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for place, label in enumerate(labels, 1):
        (folder / f"in{place}_label").write_text(f"{label}\n")
        (folder / f"in{place}_input").write_text(f"{volts * 1e3:.0f}\n")
        (folder / f"curr{place}_input").write_text(f"{amperes * 1e3:.0f}\n")
    return folder


def joules_of(source: Source, *times: float) -> list[float | None]:
    source.begin(0.0)
    return [source.joules(now) for now in times]


def within(meter: EnergyMeter) -> float | None:
    with meter.metering():
        return meter.joules()


def test_packages_are_added_up_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 1000.0), zone(tmp_path, "intel-rapl:1", 5.0, "package-1")
    part, whole = zone(tmp_path, "intel-rapl:0:0", 7.0, "core"), zone(tmp_path, "intel-rapl:2", 7.0, "psys")
    again = zone(tmp_path, "intel-rapl-mmio:0", 7.0)
    meter = machine_meter(root=tmp_path)
    counted = REGISTRY.get_sample_value("fedhft_agent_energy_joules_total") or 0.0
    with meter.metering():
        assert meter.joules() == 0.0
        for folder, now in ((first, 1040.5), (second, 7.0), (part, 90.0), (whole, 90.0), (again, 90.0)):
            (folder / "energy_uj").write_text(f"{now * 1e6:.0f}")
        durations = capacity_pb2.Durations()
        meter.tell(durations)
        assert durations.energy_joules == pytest.approx(42.5)
    assert meter.joules() is None  # no task runs
    assert REGISTRY.get_sample_value("fedhft_agent_energy_joules_total") == pytest.approx(counted + 42.5)
    assert within(meter) == 0.0  # the next task begins anew


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 9.0, most=10.0)
    meter = machine_meter(root=tmp_path)
    with meter.metering():
        (folder / "energy_uj").write_text("1500000")
        assert meter.joules() == pytest.approx(2.5)
        (folder / "energy_uj").write_text("9500000")
        assert meter.joules() == pytest.approx(10.5)
        (folder / "energy_uj").write_text("500000")
        assert meter.joules() == pytest.approx(11.5)


def test_more_than_a_machine_can_use_is_no_figure_until_the_next_task() -> None:
    jumps = Counter(Readings(0.0, 100.0, 1e9, 1e9 + 1.0))
    assert joules_of(jumps, 10.0, 20.0, 30.0) == [100.0, None, None]
    assert joules_of(jumps, 10.0) == [0.0]
    began_anew = Counter(Readings(5000.0, 3.0))  # that of a GPU whose driver was loaded again does not wrap
    assert joules_of(began_anew, 10.0) == [None]
    assert joules_of(Counter(Readings(0.0, MOST_WATTS * 60)), 60.0) == [MOST_WATTS * 60]


def test_a_counter_that_vanishes_gives_no_figure_and_one_that_comes_back_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 1.0)
    other = zone(tmp_path, "intel-rapl:1", 1.0, "package-1")
    meter = machine_meter(root=tmp_path)
    with meter.metering():
        (other / "energy_uj").write_text("2000000")
        (folder / "energy_uj").rename(folder / "gone")
        assert meter.joules() is None  # what the other counts would look like all
        durations = capacity_pb2.Durations()
        meter.tell(durations)
        assert durations.energy_joules == 0.0
        (folder / "gone").rename(folder / "energy_uj")
        assert meter.joules() == pytest.approx(1.0)
        for wrong in ("", "much", "-5", "1e3", "9" * 5000, "\xff"):
            (folder / "energy_uj").write_text(wrong, encoding="utf-8")
            assert meter.joules() is None
    (folder / "energy_uj").unlink()
    assert within(meter) is None


def test_power_is_summed_up_by_trapezoids() -> None:
    assert joules_of(Sampled(Readings(10.0, 20.0, 20.0, 0.0)), 2.0, 3.0, 5.0) == [30.0, 50.0, 70.0]
    assert joules_of(Sampled(Readings(10.0, None, 10.0)), 2.0, 4.0) == [None, 40.0]
    assert joules_of(Sampled(Readings(None, 10.0)), 2.0) == [None]


def test_of_a_jetsons_rails_the_supply_is_taken_or_else_sums(tmp_path: Path) -> None:
    clock = Clock()
    zone(tmp_path, "intel-rapl:0", 1.0)
    orin = rails(tmp_path, "hwmon3", ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", "sum of shunt voltages"])
    rails(tmp_path, "hwmon4", ["BOARD_TOTAL"], amperes=50.0)
    (rails(tmp_path, "hwmon5", ["VDD_IN"]) / "name").write_text("nvme\n")
    meter = machine_meter(root=tmp_path)
    meter._clock = clock
    with meter.metering():
        clock.now += 3.0
        assert meter.joules() == pytest.approx(30.0, abs=1e-6)
        (orin / "curr1_input").write_text("9999999999999999")  # more than any machine uses
        assert meter.joules() is None
    (orin / "in1_label").write_text("VDD_GPU\n")
    sums = machine_meter(root=tmp_path)
    sums._clock = clock
    with sums.metering():
        clock.now += 2.0
        assert sums.joules() == pytest.approx(500.0)


def test_a_thread_samples_while_a_task_runs_and_no_longer() -> None:
    asked = []

    class Watched(Sampled):
        every_s = 0.01

        def joules(self, now: float) -> float | None:
            asked.append(threading.current_thread().name)
            return super().joules(now)

    meter = EnergyMeter([Watched(Readings(10.0))])

    def fails() -> None:
        deadline = time.monotonic() + 10.0
        while asked.count("energy") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        raise ValueError("of the task")

    with pytest.raises(ValueError, match="of the task"), meter.metering():
        fails()
    assert asked.count("energy") >= 3
    assert "energy" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("folder", ["", "class/powercap", "class/hwmon", "class/hwmon/hwmon0/name"])
def test_a_machine_that_counts_nothing_starts_no_thread(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    meter = machine_meter(root=tmp_path)
    with meter.metering():
        assert "energy" not in {thread.name for thread in threading.enumerate()}
        assert meter.joules() is None
    assert within(NO_METER) is None


def test_what_only_root_may_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = zone(tmp_path, "intel-rapl:0", 1.0) / "energy_uj"
    path.unlink()
    path.mkdir()  # cannot be read, by root neither
    with caplog.at_level("DEBUG"):
        meter = machine_meter(root=tmp_path)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert within(meter) is None


class GpuLostError(Exception):
    """As NVML raises."""


def nvml(values: Any) -> SimpleNamespace:
    def total(handle: str) -> int:
        assert handle == "handle of GPU-1234"
        value = values()
        if value is None:
            raise GpuLostError
        return int(value)

    return SimpleNamespace(
        NVMLError=GpuLostError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=total,
    )


def test_the_gpu_that_is_trained_on_is_added_where_its_library_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # cannot be imported
    assert within(machine_meter("1234", tmp_path)) is None
    monkeypatch.setitem(sys.modules, "pynvml", nvml(Readings(500, 1000, 31_000, None)))  # mJ
    meter = machine_meter("1234", tmp_path)
    with meter.metering():
        assert meter.joules() == pytest.approx(30.0)
        assert meter.joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", nvml(Readings(None)))  # a GPU without the counter
    assert within(machine_meter("1234", tmp_path)) is None


def test_a_figure_is_always_finite() -> None:
    for wild in (math.inf, math.nan):
        assert joules_of(Counter(Readings(0.0, wild)), 1.0) == [None]
