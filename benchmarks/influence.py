"""What one hostile client of eight costs the other seven: `python -m benchmarks.influence`.

The demo's data (generated tickets, two hidden groups of firms) in this process. One client trains like the others, then
sends its update times `--scale` with the sign flipped, and says that it has 10^9 rows. Scores are those of the other
clients in the final evaluation: personal before and after one more local training, means over clients, and shared. The
rows of the trimmed mean have no other bound but one on weights, without which a claim of 10^9 rows is all of a mean;
once with every client at full density, once with the method's masks, where a hostile client is alone in some rows.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix
from fedhft.datasets.client_data import ClientData, load_client_data
from fedhft.demo.settings import DemoSettings, demo_data, demo_job
from fedhft.job import JobSpec, parse_job
from fedhft.local.base_model import base_model
from fedhft.simulation.run import Simulated, Simulation
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.state import Draft
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode, encode

CLAIMED_SAMPLES = 10**9

WEIGHTS_ALONE: Mapping[str, Any] = {"sample_cap": 1, "clip": 0, "opposed": 0}
TRIMMED: Mapping[str, Any] = {"combine": "trimmed-mean"}
WHOLE: Mapping[str, Any] = {"allocation": "uniform"}
UNDEFENDED: Mapping[str, Any] = {"sample_cap": 0, "clip": 0, "opposed": 0}


class HostileWorker(ClientWorker):
    """Trains honestly, then lies: about its rows, and about which way its data points."""

    factor = -100.0

    @property
    def samples(self) -> int:
        """What it claims to have."""
        return CLAIMED_SAMPLES

    def train(self, *arguments: Any, **named: Any) -> Draft:
        """The honest draft with its update scaled and flipped."""
        draft = super().train(*arguments, **named)
        if not draft.blob:
            return draft
        blob = hostile(draft.blob, self.schema, draft.base_version, self.factor)
        return replace(draft, blob=blob, digest=hashlib.sha256(blob).hexdigest())


def hostile(blob: bytes, schema: AdapterSchema, version: int, factor: float) -> bytes:
    """An update's blob with all values times `factor`."""
    honest = decode(blob, schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
    scaled = {
        key: MaskedMatrix(matrix.rows, matrix.cols, matrix.index, matrix.values * factor) for key, matrix in honest
    }
    return encode(MaskedDelta(scaled), schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32", version=version)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    limits: Mapping[str, Any]
    attacked: bool
    method: Mapping[str, Any] = field(default_factory=dict)


ROWS = (
    Row("no attack, undefended", UNDEFENDED, attacked=False),
    Row("no attack, defaults", {}, attacked=False),
    Row("attack, undefended", UNDEFENDED, attacked=True),
    Row("attack, defaults", {}, attacked=True),
    Row("no attack, trimmed mean", WEIGHTS_ALONE, attacked=False, method={**TRIMMED, **WHOLE}),
    Row("attack, trimmed mean", WEIGHTS_ALONE, attacked=True, method={**TRIMMED, **WHOLE}),
    Row("attack, trimmed mean, masks", WEIGHTS_ALONE, attacked=True, method=TRIMMED),
)


def run(spec: JobSpec, clients: Mapping[str, ClientData], base: LoadedBase, hostile_client: str | None) -> Simulated:
    """Simulate a job in which one client (or none) is hostile."""
    import asyncio

    def worker_of(job: JobSpec, name: str, *rest: Any) -> ClientWorker:
        kind = HostileWorker if name == hostile_client else ClientWorker
        return kind(job, name, *rest)

    return asyncio.run(Simulation(spec, clients, base, worker_of=worker_of).run())


def scores_of(job: jobs_pb2.Job, without: str) -> tuple[float, float, float]:
    """Means over the other clients' final scores: personal before, personal after, shared before."""
    others = [result for result in job.results if result.client != without]
    count = len(others)
    return (
        sum(one.personal_before for one in others) / count,
        sum(one.personal_after for one in others) / count,
        sum(one.shared_before for one in others) / count,
    )


def main() -> None:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--scale", type=float, default=100.0, help="of the hostile updates, besides the flipped sign")
    parser.add_argument("--method", default="fedhft")
    parser.add_argument("--model", default=None, help="path of the base model; the packaged MiniLM without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limits", action="append", default=[], help="a further row: key=value,key=value of [limits]")
    parser.add_argument("--trim", type=float, default=0.3, help="server.trim of the rows of the trimmed mean")
    parser.add_argument("--only", default="", help="only rows whose name has this in it")
    arguments = parser.parse_args()
    HostileWorker.factor = -arguments.scale
    settings = DemoSettings(
        Path(), method=arguments.method, clients=arguments.clients, rounds=arguments.rounds, seed=arguments.seed
    )
    data = demo_data(settings)
    model = base_model(arguments.model)
    rows = list(ROWS)
    for text in arguments.limits:
        limits = {
            key: float(value) if value[0].isdigit() else value for key, value in (p.split("=") for p in text.split(","))
        }
        rows += [Row(f"no attack, {text}", limits, attacked=False), Row(f"attack, {text}", limits, attacked=True)]
    print(f"{'':34s} {'before':>8s} {'after':>8s} {'shared':>8s}  clipped/capped/opposed by round")
    for row in rows:
        if arguments.only not in row.name:
            continue
        raw = demo_job(settings, arguments.method, data, model.name).model_dump(mode="json")
        raw["limits"] = {**{k: v for k, v in raw["limits"].items() if k not in row.limits}, **row.limits}
        if row.method:
            if raw["method"]["combine"] not in ("factors", "mean"):
                continue
            raw["method"].update(row.method)
            raw["server"]["trim"] = arguments.trim
        raw["limits"]["samples"] = CLAIMED_SAMPLES  # by default a job refuses such a claim
        spec = parse_job(raw)
        with tempfile.TemporaryDirectory() as folder:
            held = {
                own.client: load_client_data(spec, own.client, own.train, own.holdout, own.shared)
                for own in data.write(Path(folder))
            }
            victim = sorted(held)[0]
            ended = run(spec, held, load_base(spec, str(model.path)), victim if row.attacked else None)
        before, after, shared = scores_of(ended.job, victim)
        told = " ".join(f"{e.clipped_count}/{e.capped_count}/{e.opposed_count}" for e in ended.job.history)
        print(f"{row.name:34s} {before:8.3f} {after:8.3f} {shared:8.3f}  {told}", flush=True)


if __name__ == "__main__":
    main()
