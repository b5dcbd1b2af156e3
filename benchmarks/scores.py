"""Methods side by side on real data: `python -m benchmarks.scores --data DIR`.

Every figure in the table comes from `fedhft demo`, a federation of real processes. First each method's learning rate is
chosen on a separate seed (--select-seed), by the shared validation score before local training, with
`fedhft demo --simulate` (the same rounds in one process), one process per core; then the chosen rate runs on the seeds
that are reported. A run that is already in --out is not repeated, so an interrupted benchmark resumes where it stopped.
Prints the scores behind each choice to standard error, and a Markdown table: scores before and after local training,
bytes both ways, memory, memberships.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    name: str
    method: str
    arguments: tuple[str, ...] = ()
    rates: tuple[float, ...] = (1e-3, 3e-3, 5e-3)
    rate_of: str = ""
    """Arm whose chosen rate is used instead of choosing one."""
    seeds: int = 3


ARMS = (
    Arm("fedhft, 1 cluster", "fedhft", ("--clusters", "1")),
    Arm("fedhft, 2 clusters", "fedhft", ("--clusters", "2"), rate_of="fedhft, 1 cluster"),
    Arm("fedhft-paper, 2 clusters", "fedhft-paper", ("--clusters", "2")),
    Arm("fedit", "fedit"),
    Arm("local", "local"),
    Arm("full", "full", rates=(5e-5, 1e-4), seeds=1),
)
"""What is compared; --arms selects some by name."""


def run(
    arm: Arm, rate: float, seed: int, options: argparse.Namespace, *further: str, **environment: str
) -> dict[str, Any]:
    """Run `fedhft demo` once; returns its run object, from --out if it is already there."""
    name = "".join((f"{arm.name.replace(', ', '-').replace(' ', '-')}-lr{rate:g}-seed{seed}", *further))
    kept = Path(options.out) / f"{name}.json"
    if not kept.exists():
        command = [
            sys.executable, "-m", "fedhft.cli", "demo", "--format", "json", "--out", str(Path(options.out) / name),
            "--method", arm.method, "--learning-rate", str(rate), "--seed", str(seed), "--data", options.data,
            *arm.arguments, *options.demo, *further,
        ]  # fmt: skip
        print(f"{name} ...", file=sys.stderr, flush=True)
        with (Path(options.out) / f"{name}.log").open("w", encoding="utf-8") as log:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, check=True, timeout=_TIMEOUT_S, text=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        kept.write_text(done.stdout, encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["runs"][0]
    return found


def choose(arm: Arm, options: argparse.Namespace) -> float:
    """The learning rate with the best shared score before local training on the selection seed.

    `local` shares nothing, so it is judged by the score after.
    """
    moment = "after" if arm.method == "local" else "before"
    scores = {rate: _simulated(arm, rate, options)["validation"][moment] for rate in arm.rates}
    best = max(scores, key=lambda rate: (scores[rate], -rate))
    tried = ", ".join(f"{rate:g}: {score:.3f}" for rate, score in scores.items())
    print(f"{arm.name}: {best:g} chosen on seed {options.select_seed} by shared {moment} ({tried})", file=sys.stderr)
    return best


def _simulated(arm: Arm, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    return run(arm, rate, options.select_seed, options, "--simulate", OMP_NUM_THREADS="1")


def simulate_ahead(arms: Sequence[Arm], options: argparse.Namespace) -> None:
    """Make all runs that `choose` will need, several at once."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = [pool.submit(_simulated, arm, rate, options) for arm in arms for rate in arm.rates]
        for one in waiting:
            one.result()


def line(arm: Arm, rate: float, runs: Sequence[dict[str, Any]]) -> str:
    """One row: means over seeds, with the range of the shared score before."""

    def mean(*path: str) -> float | None:
        values = []
        for one in runs:
            value: Any = one
            for part in path:
                value = value[part]
            if value is None:
                return None
            values.append(float(value))
        return statistics.fmean(values)

    def shown(value: float | None, form: str = ".3f") -> str:
        return "-" if value is None else format(value, form)

    before = [one["validation"]["before"] for one in runs]
    spread = f" ({min(before):.3f} to {max(before):.3f})" if len(runs) > 1 and None not in before else ""
    peak = mean("agent_peak_rss_bytes", "max")
    cells = (
        arm.name,
        f"{rate:g}",
        str(len(runs)),
        shown(mean("validation", "before")) + spread,
        shown(mean("validation", "after")),
        shown(mean("validation", "mass_weighted")),
        shown(mean("personal", "before", "mean")),
        shown(mean("personal", "before", "worst_tenth")),
        shown(mean("personal", "after", "mean")),
        shown(mean("bytes", "up_per_client_round"), ",.0f"),
        shown(mean("bytes", "down_per_client_round"), ",.0f"),
        shown(None if peak is None else peak / 2**20, ".0f"),
        shown(mean("clusters", "mean_max_membership"), ".2f"),
        shown(mean("clusters", "adjusted_rand_index"), ".2f"),
    )
    return "| " + " | ".join(cells) + " |"


HEADS = (
    "method", "learning rate", "seeds", "shared before (range)", "shared after", "mass-weighted", "personal before",
    "worst tenth", "personal after", "bytes up", "bytes down", "agent peak MiB", "largest membership", "Rand index",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose rates, run the seeds, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.scores", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder with train and validation files")
    parser.add_argument("--out", default="out/scores", help="where runs are kept")
    parser.add_argument("--arms", default="", help="names of lines to run, separated by ';'; default: all")
    parser.add_argument("--seeds", default="0,1,2", help="seeds that are reported")
    parser.add_argument("--select-seed", type=int, default=9, help="seed on which learning rates are chosen")
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate of every line, instead of choosing")
    parser.add_argument("demo", nargs="*", help="further arguments of `fedhft demo`, after --")
    options = parser.parse_args(arguments)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.select_seed in seeds:
        parser.error(f"--select-seed {options.select_seed}: is among the reported --seeds; choose another")
    wanted = [name.strip() for name in options.arms.split(";") if name.strip()]
    if unknown := [name for name in wanted if name not in {arm.name for arm in ARMS}]:
        parser.error(f"--arms {unknown[0]!r}: unknown; choose from {'; '.join(arm.name for arm in ARMS)}")
    arms = {arm.name: arm for arm in ARMS}
    chosen = [arm for arm in ARMS if not wanted or arm.name in wanted]
    if not options.rate:
        simulate_ahead(list(dict.fromkeys(arms[arm.rate_of or arm.name] for arm in chosen)), options)
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    for arm in chosen:
        rate = options.rate or choose(arms[arm.rate_of] if arm.rate_of else arm, options)
        runs = [run(arm, rate, seed, options) for seed in seeds[: arm.seeds]]
        print(line(arm, rate, runs), flush=True)


if __name__ == "__main__":
    main()
