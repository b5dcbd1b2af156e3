"""One line of `benchmarks.memory`, in a process of its own; its argument is a JSON object.

Prints a JSON object. Peaks are sampled every few milliseconds, above what the process had after its imports.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedhft.process.allocator import bound_arenas

SEED = 7
WORDS = 400
_EVERY_S = 0.004


class Peaks:
    """The largest resident set and anonymous memory while it runs, bytes."""

    def __init__(self) -> None:
        self.resident = self.anonymous = 0
        self._over = threading.Event()

    def sample(self) -> tuple[int, int]:
        """Resident and anonymous now."""
        found = {}
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "RssAnon"):
                found[name] = int(value.split()[0]) * 1024
        return found["VmRSS"], found["RssAnon"]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, samples."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            resident, anonymous = self.sample()
            self.resident, self.anonymous = max(self.resident, resident), max(self.anonymous, anonymous)
            self._over.wait(_EVERY_S)


def main() -> None:
    """Do what the argument says."""
    given = json.loads(sys.argv[1])
    bound_arenas()
    print(json.dumps({"plain": plain, "client": client}[given["run"]](given)))


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """A loop over transformers: all weights, or LoRA by PEFT."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers import BertForSequenceClassification

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    peaks = Peaks()
    imports = peaks.sample()
    with peaks.watching():
        model: Any = BertForSequenceClassification.from_pretrained(given["model"], num_labels=2)
        if given["lora"]:
            model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]))
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        model.train()
        began = time.process_time()
        for _ in range(given["steps"]):
            ids = torch.randint(1000, 20000, (given["batch"], given["tokens"]))
            optimiser.zero_grad()
            model(input_ids=ids, labels=torch.zeros(len(ids), dtype=torch.int64)).loss.backward()
            optimiser.step()
        seconds = (time.process_time() - began) / given["steps"]
    return figures(imports, peaks, seconds)


def figures(imports: tuple[int, int], peaks: Peaks, seconds: float, **more: Any) -> dict[str, Any]:
    """What both report."""
    return {
        "imports": imports[0],
        "imports_anonymous": imports[1],
        "resident": peaks.resident - imports[0],
        "anonymous": peaks.anonymous - imports[1],
        "seconds": seconds,
        **more,
    }


def client(given: Mapping[str, Any]) -> dict[str, Any]:
    """A client of ours: its whole round with `rows` rows, at the largest of `tiers` that fits `memory`."""
    import torch
    import transformers

    from fedhft.datasets.client_data import ClientData
    from fedhft.job import parse_job
    from fedhft.planning.memory import VALUE_BYTES, streams
    from fedhft.planning.tiers import plans
    from fedhft.training.base import load_base
    from fedhft.training.lean_imports import lean_models
    from fedhft.training.network import Network
    from fedhft.training.prefix.folder import PrefixFolder
    from fedhft.training.stored_weights import stored_values
    from fedhft.training.worker import ClientWorker
    from fedhft.v1 import federation_pb2 as pb

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with lean_models():
        kind = transformers.AutoConfig.from_pretrained(given["model"]).architectures[0].removesuffix("Model")
        getattr(transformers, f"{kind}ForSequenceClassification", None)
    peaks = Peaks()
    imports = peaks.sample()
    spec = parse_job(
        {
            "name": "memory",
            "model": {"name": given["model"], "max_length": given["tokens"]},
            "task": {"labels": ["bad", "good"]},
            "method": {"preset": "fedhft", "clusters": 1},
            "adapter": {"rank": 8, "alpha": 16},
            "training": {"batch_size": given["batch"], "precision": given.get("precision", "fp32")},
            "tiers": given["tiers"],
        }
    )
    memory = given["memory"]
    with peaks.watching(), tempfile.TemporaryDirectory() as scratch:
        count = VALUE_BYTES * stored_values(Path(given["model"]))
        base = load_base(spec, streamed=given.get("streamed", streams(count, memory)))
        if given.get("cached", True):
            folder = PrefixFolder.open(Path(scratch), 4 << 30)
            assert folder is not None, "the cache cannot be used"
            Network.on(base, spec).cache_prefix(folder, torch.float32)
        rows = texts(base.tokenizer, given["tokens"], given["rows"])
        worker = ClientWorker(spec, "client", base, ClientData.of(rows, rows[: len(rows) // 4], []), None, memory)
        declined = {}
        for tier in spec.tiers:
            plan = plans(spec, worker.schema, {"client": tier})["client"]
            lacking = worker.fit(plan)
            if lacking is None:
                break
            declined[tier] = lacking.needed
        else:
            return figures(imports, peaks, 0.0, tier=None, declined=declined)
        began = time.process_time()
        view = pb.ViewSource(version=0, memberships=[1.0])
        task = pb.TrainTask(round=1, view=view, plan=plan.message(), seed=1, learning_rate=1e-3, evaluate=True)
        draft = worker.train(task)
        seconds = time.process_time() - began
        steps = draft.measurements.steps
        arrangement = Network.on(base, spec).arrangement
        widths = [given["tokens"]] * given["batch"]
        part = arrangement.training_parts_of(widths, [1] * given["batch"])[0]
        again = peaks.sample()
        worker.commit(draft)
        task.round, task.evaluate = 2, False
        began = time.process_time()
        worker.train(task)
        per_step = (time.process_time() - began) / steps
    return figures(
        imports, peaks, seconds, tier=tier, declined=declined, steps=steps, at_once=part.stop - part.start,
        recompute=arrangement.recompute, predicted=worker.predicted_peak, peak=peaks.resident,
        step_seconds=per_step, streamed=base.streamed is not None,
        budgeted=arrangement.predicted, after=again[1] - imports[1],
    )  # fmt: skip


def texts(tokenizer: Any, tokens: int, count: int) -> list[Any]:
    """Rows of `tokens` tokens: as many words that are one token each."""
    import numpy as np

    from fedhft.datasets.examples import Example

    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.islower())[:WORDS]
    generator = np.random.default_rng(SEED)
    made = []
    for number in range(count):
        text = " ".join(generator.choice(words, tokens))
        made.append(Example(text, None, float(number % 2)))
    return made


if __name__ == "__main__":
    main()
