"""What clients take of memory, and whether they keep to what they were given: `python -m benchmarks.memory`.

    depth      what depth, density and the cache of frozen layers save, beside plain loops; random BERT-base, 8 rows of
               64 tokens a step
    predicted  the predicted peak of a resident set against the measured one, over 12 plans of 3 models
    budgets    a round within 300, 500 and 800 MiB, as a control group that has no more: MiniLM and BERT-base

Every line is a process of its own (`benchmarks.memory_runs`), with one thread. MB are 10^6 bytes. Needs 1 GB of disk;
for budgets also to be allowed to make a control group.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.memory_runs import SEED
from fedhft.local.base_model import packaged_minilm

MIB = 1 << 20
ANY = 64 << 30
PLANS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("MiniLM", {"tiers": {"t": {}}, "tokens": 64, "batch": 16}),
    ("MiniLM", {"tiers": {"t": {"depth": 2, "density": 0.25}}, "tokens": 128, "batch": 32}),
    ("MiniLM", {"tiers": {"t": {"depth": 1}}, "tokens": 32, "batch": 8, "memory": 330 * MIB}),
    ("MiniLM", {"tiers": {"t": {"depth": 3}}, "tokens": 128, "batch": 16, "memory": 400 * MIB}),
    ("BERT-base", {"tiers": {"t": {}}, "tokens": 32, "batch": 8}),
    ("BERT-base", {"tiers": {"t": {"depth": 6}}, "tokens": 64, "batch": 16, "streamed": True}),
    ("BERT-base", {"tiers": {"t": {"depth": 3}}, "tokens": 64, "batch": 8, "memory": 500 * MIB}),
    ("BERT-base", {"tiers": {"t": {"depth": 1, "density": 0.5}}, "tokens": 128, "batch": 16, "memory": 400 * MIB}),
    ("Llama", {"tiers": {"t": {}}, "tokens": 32, "batch": 8}),
    ("Llama", {"tiers": {"t": {"depth": 4}}, "tokens": 64, "batch": 16, "streamed": True}),
    ("Llama", {"tiers": {"t": {"depth": 2}}, "tokens": 128, "batch": 16, "memory": 500 * MIB}),
    ("Llama", {"tiers": {"t": {"depth": 1}}, "tokens": 64, "batch": 8, "memory": 400 * MIB}),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["depth", "predicted", "budgets"], help="one of the tables")
    only = parser.parse_args(argv).only
    tables: dict[str, Callable[[Mapping[str, Path]], Iterator[str]]] = {
        "depth": depth, "predicted": predicted, "budgets": budgets,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        models = write_models(Path(scratch))
        for name, table in tables.items():
            if only in (None, name):
                for line in table(models):
                    print(line, flush=True)
                print()


def write_models(folder: Path) -> dict[str, Path]:
    """MiniLM, and two random models with its words."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_minilm())
    llama = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=12,
        max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    made = {
        "BERT-base": transformers.BertModel(transformers.BertConfig()),
        "Llama": transformers.LlamaModel(llama),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {"MiniLM": packaged_minilm(), **{name: folder / name for name in made}}


def run(given: Mapping[str, Any], group: Path | None = None) -> dict[str, Any]:
    """What a process says of itself. group: a control group for it."""
    command = [sys.executable, "-m", "benchmarks.memory_runs", json.dumps(given)]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        return {"failed": f"exit code {done.returncode} {last[0][:90]}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def depth(models: Mapping[str, Path]) -> Iterator[str]:
    """What depth, density and the cache save."""
    model = str(models["BERT-base"])
    plain = {"run": "plain", "model": model, "batch": 8, "tokens": 64, "steps": 4}
    ours = {"run": "client", "model": model, "batch": 8, "tokens": 64, "rows": 32, "memory": 0, "streamed": True}
    lines: list[tuple[str, dict[str, Any]]] = [
        ("full fine-tuning, transformers", {**plain, "lora": False}),
        ("LoRA on 12 layers, PEFT", {**plain, "lora": True}),
        ("12 layers", {**ours, "tiers": {"t": {}}, "cached": False}),
        ("12 layers, density .25", {**ours, "tiers": {"t": {"density": 0.25}}, "cached": False}),
        ("depth 3, no cache, model held", {**ours, "tiers": {"t": {"depth": 3}}, "cached": False, "streamed": False}),
        ("depth 3, cache, model held", {**ours, "tiers": {"t": {"depth": 3}}, "streamed": False}),
        ("depth 6, cache", {**ours, "tiers": {"t": {"depth": 6}}}),
        ("depth 3, cache", {**ours, "tiers": {"t": {"depth": 3}}}),
        ("depth 3, cache, density .25", {**ours, "tiers": {"t": {"depth": 3, "density": 0.25}}}),
        ("depth 1, cache", {**ours, "tiers": {"t": {"depth": 1}}}),
        ("depth 3, cache, --memory 400MiB", {**ours, "tiers": {"t": {"depth": 3}}, "memory": 400 * MIB}),
    ]
    yield "| | imports, MB | anonymous, MB | of full | resident, MB | of full | CPU s per step |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    full: dict[str, Any] = {}
    for name, given in lines:
        found = run(given)
        if "failed" in found:
            yield f"| {name} | {found['failed']} | | | | | |"
            continue
        full = full or found
        anonymous, resident = full["anonymous"] / found["anonymous"], full["resident"] / found["resident"]
        seconds = found.get("step_seconds", found["seconds"])
        yield (
            f"| {name} | {mb(found['imports'])} | {mb(found['anonymous'])} | 1/{anonymous:.1f} | "
            f"{mb(found['resident'])} | 1/{resident:.1f} | {seconds:.2f} |"
        )


def predicted(models: Mapping[str, Path]) -> Iterator[str]:
    """Predicted and measured peaks."""
    yield "| model | plan | rows at once | predicted, MB | measured, MB | error | error above imports |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    worst = above = 0.0
    for name, plan in PLANS:
        given = {"run": "client", "model": str(models[name]), "rows": 64, "memory": ANY, **plan}
        found = run(given)
        tier = plan["tiers"]["t"]
        told = f"depth {tier.get('depth', 'all')}, density {tier.get('density', 1)}, {plan['batch']} x {plan['tokens']}"
        told += f", {plan['memory'] // MIB} MiB" if "memory" in plan else ""
        if not found.get("predicted"):
            yield f"| {name} | {told} | | | {found.get('failed') or found.get('declined')} | | |"
            continue
        error = found["predicted"] / found["peak"] - 1
        own = (found["predicted"] - found["imports"]) / (found["peak"] - found["imports"]) - 1
        worst, above = max(worst, abs(error)), max(above, abs(own))
        yield (
            f"| {name} | {told} | {found['at_once']}{', twice' if found['recompute'] else ''} | "
            f"{mb(found['predicted'])} | {mb(found['peak'])} | {error:+.1%} | {own:+.0%} |"
        )
    yield f"\nlargest error {worst:.1%}, above imports {above:.0%}"


def budgets(models: Mapping[str, Path]) -> Iterator[str]:
    """Rounds in control groups."""
    yield "| model | memory, MiB | declined, needs MiB | plan | rows at once | anonymous peak, MiB | killed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    tiers: dict[str, dict[str, Any]] = {
        "all layers": {}, "half": {"depth": 6}, "depth 3": {"depth": 3}, "depth 1": {"depth": 1},
    }  # fmt: skip
    for name in ("MiniLM", "BERT-base"):
        for memory in (300, 500, 800):
            own = {**tiers, "half": {"depth": 3 if name == "MiniLM" else 6}}
            given = {
                "run": "client", "model": str(models[name]), "rows": 64, "tokens": 128, "batch": 16,
                "memory": memory * MIB, "tiers": own,
            }  # fmt: skip
            with control_group(memory * MIB) as group:
                found = run(given, group)
                hit = kills_of(group)
            if "failed" in found or found["tier"] is None:
                yield f"| {name} | {memory} | {found.get('declined', '')} | {found.get('failed', 'none')} | | | {hit} |"
                continue
            declined = ", ".join(f"{tier} {needed // MIB}" for tier, needed in found["declined"].items())
            yield (
                f"| {name} | {memory} | {declined} | {found['tier']} | "
                f"{found['at_once']}{', twice' if found['recompute'] else ''} | "
                f"{(found['imports_anonymous'] + found['anonymous']) // MIB} | {hit} |"
            )


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A control group with that much memory and no swap. Raises OSError where this process may not make one."""
    first = Path("/sys/fs/cgroup/memory")
    old = first.is_dir()
    group = (first if old else Path("/sys/fs/cgroup")) / f"fedhft-{os.getpid()}-{limit}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def kills_of(group: Path) -> str:
    """How often the kernel killed a process of the group because of its limit."""
    for file in ("memory.oom_control", "memory.events"):
        if (group / file).exists():
            words = dict(line.split() for line in (group / file).read_text(encoding="ascii").splitlines())
            return f"{words['oom_kill']}"
    return "not known"


def mb(count: float) -> str:
    """Millions of bytes."""
    return f"{count / 1e6:.0f}"


if __name__ == "__main__":
    main()
