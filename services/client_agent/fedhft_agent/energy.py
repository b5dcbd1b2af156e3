"""Joules that this machine uses while a task runs, where it has something that counts them.

They are the whole machine's, of all that runs on it, and of those parts that are counted:

* Jetson: the power of its supply (INA3221 sensors under class/hwmon), sampled about once a second, trapezoid rule;
* others: processor packages (RAPL under class/powercap, often readable by root only) and, with pynvml, the GPU that is
  trained on.

What cannot be read, or cannot be, gives no figure for the round, and never an error.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedhft.telemetry import metrics
from fedhft.v1 import capacity_pb2

log = logging.getLogger(__name__)

MOST_WATTS = 2000.0
"""More than this of one counter or sensor is not believed; a counter that began anew looks like that."""
_SLACK_S = 1.0
"""Counters are updated now and then, so that a short time may show what was used before it."""
_COUNTED_EVERY_S = 30.0
"""So often that the smallest counters (65 kJ) are read before they wrap twice."""
_SAMPLED_EVERY_S = 1.0
_WAIT_S = 5.0
"""Most seconds that a reading is waited for."""
_PACKAGE = re.compile(r"intel-rapl:\d+")
_WHOLE_SUPPLY = "VDD_IN"
_LABEL = re.compile(r"in(\d+)_label")


class Source(Protocol):
    """Something that tells joules. every_s: how often it has to be asked."""

    every_s: float

    def begin(self, now: float) -> None:
        """Count from here. now: seconds of a clock that does not go back."""

    def joules(self, now: float) -> float | None:
        """Since `begin`; None where that is not known now."""


class Counter:
    """Energy that something else counts.

    read: joules so far, None where it cannot be read. wraps_at: joules after which it begins at 0 again.
    """

    every_s = _COUNTED_EVERY_S

    def __init__(self, read: Callable[[], float | None], wraps_at: float = math.inf) -> None:
        self._read = read
        self._wraps_at = wraps_at
        self._last: float | None = None
        self._at = self._total = 0.0

    def begin(self, now: float) -> None:
        """See Source."""
        self._last, self._at, self._total = self._read(), now, 0.0

    def joules(self, now: float) -> float | None:
        """See Source. A reading in between that fails is made up for by the next; what cannot be is not."""
        read = self._read()
        if read is None or self._last is None:
            return None
        gained = read - self._last
        if gained < 0:
            gained += self._wraps_at
        if not 0 <= gained <= MOST_WATTS * (now - self._at + _SLACK_S):
            self._total = math.nan  # until the next task begins
        self._last, self._at, self._total = read, now, self._total + gained
        return self._total if math.isfinite(self._total) else None


class Sampled:
    """Power, summed up by the trapezoid rule. read: watts now, None where it cannot be read."""

    every_s = _SAMPLED_EVERY_S

    def __init__(self, read: Callable[[], float | None]) -> None:
        self._read = read
        self._last: float | None = None
        self._at = self._total = 0.0

    def begin(self, now: float) -> None:
        """See Source."""
        self._last, self._at, self._total = self._read(), now, 0.0

    def joules(self, now: float) -> float | None:
        """See Source."""
        watts = self._read()
        if watts is None or self._last is None:
            return None
        self._total += max(0.0, now - self._at) * (self._last + watts) / 2
        self._last, self._at = watts, now
        return self._total


class EnergyMeter:
    """What this machine uses while tasks run, one after the other."""

    def __init__(self, sources: Sequence[Source], clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._lock = threading.Lock()
        self._runs = False

    @contextmanager
    def metering(self) -> Iterator[None]:
        """Around one task. A thread reads meanwhile, so that no wrap and no change of power is missed."""
        if not self._sources:
            yield
            return
        done = threading.Event()
        self._begin()
        thread = threading.Thread(target=self._sample, args=(done,), name="energy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(_WAIT_S)
            metrics.AGENT_ENERGY_JOULES.inc(self.joules() or 0.0)
            self._runs = False

    def joules(self) -> float | None:
        """Since the task began; None outside of one, or where a source cannot tell: a part would look like all."""
        if not self._runs or not self._lock.acquire(timeout=_WAIT_S):
            return None
        try:
            now = self._clock()
            told = [source.joules(now) for source in self._sources]
        finally:
            self._lock.release()
        known = [one for one in told if one is not None]
        return math.fsum(known) if len(known) == len(told) else None

    def tell(self, durations: capacity_pb2.Durations) -> None:
        """Add them to what a round measured; 0 stays where they are not known."""
        durations.energy_joules = self.joules() or 0.0

    def _begin(self) -> None:
        if self._lock.acquire(timeout=_WAIT_S):
            try:
                now = self._clock()
                for source in self._sources:
                    source.begin(now)
                self._runs = True
            finally:
                self._lock.release()

    def _sample(self, done: threading.Event) -> None:
        every = min(source.every_s for source in self._sources)
        while not done.wait(every):
            self.joules()


NO_METER = EnergyMeter(())
"""Of a machine that counts nothing."""


def machine_meter(gpu: str | None = None, root: Path = Path("/sys")) -> EnergyMeter:
    """A meter of what this machine has. gpu: UUID of the GPU that is trained on. root: where sysfs is."""
    supply = _supply(root / "class/hwmon")
    found: dict[str, Source] = supply or {**_packages(root / "class/powercap"), **_gpu(gpu)}
    if found:
        log.info("energy is measured", extra={"of": sorted(found)})
    return EnergyMeter(list(found.values()))


def _packages(folder: Path) -> dict[str, Source]:
    """Counters of processor packages. Their parts are counted in them, and `psys` counts them again."""
    found: dict[str, Source] = {}
    for zone in _entries(folder):
        name = _text(zone / "name")
        if not _PACKAGE.fullmatch(zone.name) or not name.startswith("package"):
            continue
        if _number(zone / "energy_uj") is None:
            log.debug("a counter of energy cannot be read", extra={"path": str(zone / "energy_uj")})
            continue
        most = _number(zone / "max_energy_range_uj")
        found[f"{name} ({zone.name})"] = Counter(_scaled(zone / "energy_uj", 1e-6), most * 1e-6 if most else math.inf)
    return found


def _supply(folder: Path) -> dict[str, Source]:
    """Sensors of the whole supply, or of sums over it; no others, since rails feed one another."""
    whole: dict[str, Source] = {}
    sums: dict[str, Source] = {}
    for sensor in _entries(folder):
        if _text(sensor / "name") != "ina3221":
            continue
        for path in _entries(sensor):
            match, label = _LABEL.fullmatch(path.name), _text(path).upper()
            if match is None or not (label == _WHOLE_SUPPLY or label == "SUM" or label.endswith("_TOTAL")):
                continue
            read = _watts(sensor / f"in{match[1]}_input", sensor / f"curr{match[1]}_input")
            if read() is None:
                log.debug("a sensor of power cannot be read", extra={"path": str(path)})
                continue
            (whole if label == _WHOLE_SUPPLY else sums)[f"{label} ({sensor.name})"] = Sampled(read)
    return whole or sums


def _gpu(uuid: str | None) -> dict[str, Source]:
    """NVML's counter of a GPU; nothing without pynvml, and for a GPU that has none (before Volta, or a part of one)."""
    if uuid is None:
        return {}
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return {}
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(name)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        log.debug("the GPU's counter of energy cannot be read", extra={"detail": str(error)})
        return {}

    def read() -> float | None:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
        except nvml.NVMLError:
            return None

    return {name: Counter(read)}


def _watts(millivolts: Path, milliamperes: Path) -> Callable[[], float | None]:
    def read() -> float | None:
        volts, amperes = _number(millivolts), _number(milliamperes)
        if volts is None or amperes is None:
            return None
        watts = volts * amperes * 1e-6
        return watts if watts <= MOST_WATTS else None

    return read


def _scaled(path: Path, unit: float) -> Callable[[], float | None]:
    def read() -> float | None:
        value = _number(path)
        return None if value is None else value * unit

    return read


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    """A number of at least 0, which no counter and no sensor of a supply goes below."""
    try:
        value = int(_text(path))
    except ValueError:
        return None
    return value if 0 <= value < 2**64 else None
