"""Every decoder under inputs that nobody would send by accident: `python -m benchmarks.fuzz --seconds 600`.

Valid inputs are changed at random (bytes, JSON values, protobuf fields; see `fuzz_mutations`) and decoded, in turns of
a quarter of a second per target. Exit code 1 when a decoder

* raises anything but FedhftError;
* takes over 64 MiB of memory beyond the size of its input: the process's address space is limited to what it has plus
  that, so such an input ends in MemoryError, and of every 64th input the peak is measured with tracemalloc;
* takes over 5 seconds.

Failing inputs are printed in hex, to become unit tests; longer ones are written to out/fuzz. A run is repeated with
--seed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz_inputs import Target
from benchmarks.fuzz_targets import targets
from fedhft.errors import FedhftError

MEMORY_BYTES = 64 << 20
"""Most memory one input may take, beyond its own size."""
SLOWEST_S = 5.0
TURN_S = 0.25
MEASURED_EVERY = 64
_MOST_FAILURES = 20
_LONGEST_PRINTED = 2048
_WARM_UP = 200
_PAGE = resource.getpagesize()
_RESULTS = Path("out/fuzz")


@dataclass
class Run:
    """What became of one target."""

    target: Target
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    failures: dict[str, bytes] = field(default_factory=dict)
    """What went wrong and where -> the first input with which it did."""

    @property
    def rate(self) -> float:
        """Inputs per second, the making of them included."""
        return self.inputs / self.seconds if self.seconds else 0.0


def fuzz(runs: Sequence[Run], seconds: float, seed: int) -> None:
    """Give every target its share of the time."""
    rng = random.Random(seed)
    for run in runs:
        for _ in range(_WARM_UP):  # imports, caches and tables are not an input's memory
            _try(run, run.target.make(rng), measured=False)
    until = time.monotonic() + seconds
    while time.monotonic() < until and sum(len(run.failures) for run in runs) < _MOST_FAILURES:
        for run in runs:
            _turn(run, rng, min(until, time.monotonic() + TURN_S))


def _turn(run: Run, rng: random.Random, until: float) -> None:
    started = time.monotonic()
    _limit_memory(MEMORY_BYTES + (8 << 20))  # the largest input, and the arena that the allocator takes at once
    try:
        while (now := time.monotonic()) < until:
            data = run.target.make(rng)
            _try(run, data, measured=run.inputs % MEASURED_EVERY == 0)
            run.slowest_s = max(run.slowest_s, time.monotonic() - now)
            if run.slowest_s > SLOWEST_S:
                run.failures.setdefault(f"took {run.slowest_s:.1f} s", data)
    finally:
        _limit_memory(None)
    run.seconds += time.monotonic() - started


def _try(run: Run, data: bytes, measured: bool) -> None:
    run.inputs += 1
    if measured:
        tracemalloc.start()
    try:
        run.target.run(data)
    except FedhftError:
        run.refused += 1
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises is what we look for
        place = traceback.extract_tb(error.__traceback__)[-1]
        run.failures.setdefault(f"{type(error).__name__} at {place.filename}:{place.lineno}: {str(error)[:200]}", data)
    finally:
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            run.peak_bytes = max(run.peak_bytes, peak)
            if peak > MEMORY_BYTES + len(data):
                run.failures.setdefault(f"took {peak >> 20} MiB of memory", data)


def _limit_memory(room: int | None) -> None:
    """Let this process have so many bytes more of address space than it has now; None: as many as it likes."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if room is None:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + room, hard))


def _report(runs: Sequence[Run]) -> None:
    table = Table("target", "inputs", "per second", "refused %", "slowest ms", "peak KiB", "failures")
    for run in runs:
        table.add_row(
            run.target.name, f"{run.inputs:,}", f"{run.rate:,.0f}", f"{100 * run.refused / max(1, run.inputs):.0f}",
            f"{1000 * run.slowest_s:.0f}", f"{run.peak_bytes >> 10:,}", str(len(run.failures)),
        )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    console.print(f"{sum(run.inputs for run in runs):,} inputs")
    for run in runs:
        for problem, data in run.failures.items():
            console.print(f"\n{run.target.name}: {problem}", markup=False, highlight=False)
            if len(data) <= _LONGEST_PRINTED:
                console.print(data.hex(), markup=False, highlight=False, soft_wrap=True)
                continue
            _RESULTS.mkdir(parents=True, exist_ok=True)
            path = _RESULTS / f"{run.target.name}-{abs(hash(problem)) % 10**8}.bin"
            path.write_bytes(data)
            console.print(f"{len(data)} bytes, in {path}", markup=False, highlight=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without logs and warnings: damaged files are logged, a thousand times a second."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzing; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, all targets together")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=None, help="of the random changes (default: another each time)")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    memory = Path("/dev/shm")  # noqa: S108 - only a place in memory; the folder in it is private
    with _quiet(), tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        known = targets(Path(folder))
        names = [target.name for target in known]
        if unknown := sorted(set(given.target) - set(names)):
            parser.error(f"no target {', '.join(unknown)}; choose from {', '.join(names)}")
        runs = [Run(target) for target in known if not given.target or target.name in given.target]
        sys.stdout.write(f"seed {seed}\n")
        fuzz(runs, given.seconds, seed)
        _report(runs)
    return 1 if any(run.failures for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
