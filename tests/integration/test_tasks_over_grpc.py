"""Text and tags through real agents, a real aggregator and real sockets, to a directory that plain PEFT loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoTokenizer

from benchmarks.families import TASKS, example_rows, write_family
from fedhft.datasets.examples import Example
from fedhft.local.processes import stop_all
from fedhft.v1 import jobs_pb2
from tests.agents import Site, running_site
from tests.cli_runner import run_cli

CLIENTS = ("ash", "birch")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("tasks"), redis_url) as running:
        yield running


def as_columns(row: Example, tags: tuple[str, ...]) -> dict[str, Any]:
    if row.words:
        assert isinstance(row.label, tuple)
        return {"text": list(row.words), "label": [tags[index] for index in row.label]}
    return {"prompt": row.text, "completion": row.text_pair}


def write_rows(path: Path, task: str, count: int, offset: int) -> Path:
    rows = example_rows(task, count, offset)
    path.write_text("".join(json.dumps(as_columns(row, TASKS[task].labels)) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(site: Site, family: str, task: str) -> jobs_pb2.Job:
    """A job of two agents over sockets, which score a common split in halves, to its end."""
    folder = site.folder / task
    model = write_family(folder / "model", family, task)
    site.submit(
        task,
        model={"name": str(model), "max_length": 48},
        task={"labels": [], **TASKS[task].model_dump(mode="json")},
        method={"preset": "fedit"},
        training={"learning_rate": 2e-2, "batch_size": 8, "epochs": 2},
        rounds={"total": 3, "min_clients": 2},
        evaluation={"final": True, "final_shared": "sharded"},
    )
    shared = write_rows(folder / "shared.jsonl", task, 30, 900)
    agents = [
        site.process(
            client,
            "--shared-validation",
            str(shared),
            data=write_rows(folder / f"{client}.jsonl", task, 40, 100 * place),
            state=f"state-{task}-{client}",
        )
        for place, client in enumerate(CLIENTS)
    ]
    try:
        return site.ended(task)
    finally:
        stop_all(agents, 0.0, 15.0)


def exported(site: Site, task: str) -> Path:
    out = site.folder / task / "adapters"
    done = run_cli("job", "export", task, "--out", str(out), "--check", "--server", site.admin)
    assert done.returncode == 0, done.stderr
    (directory,) = list(out.rglob("adapter_config.json"))
    return directory.parent


@pytest.mark.slow
def test_text_is_learned_scored_in_shares_and_exported(site: Site) -> None:
    job = trained(site, "llama", "causal-lm")
    assert job.status == "completed", job.reason
    by_name = {one.name: one for one in job.final.metrics}
    first = {one.name: one for one in job.history[0].metrics}
    assert list(by_name) == ["token_accuracy", "perplexity", "exact_match"]
    assert by_name["perplexity"].shared_before < first["perplexity"].shared_before / 2
    assert by_name["perplexity"].shared_before == pytest.approx(np.exp(job.final.shared_loss_before), rel=1e-4)
    assert job.final.shared_before > 0.4 > by_name["token_accuracy"].floor
    assert job.final.personal_loss_before_median < job.history[0].personal_loss_before_median

    directory = exported(site, "causal-lm")
    base = transformers.AutoModelForCausalLM.from_pretrained(site.folder / "causal-lm" / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(directory)).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    losses = []
    for row in example_rows("causal-lm", 30, 900):
        prompt = tokenizer(row.text)["input_ids"]
        answer = [*tokenizer(row.text_pair, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
    # The perplexity of the shares together is that of all rows under what a user loads.
    assert float(torch.stack(losses).sum() / 90) == pytest.approx(job.final.shared_loss_before, rel=1e-4)


@pytest.mark.slow
def test_tags_are_learned_and_their_entities_counted_over_all_shares(site: Site) -> None:
    job = trained(site, "bert", "token-classification")
    assert job.status == "completed", job.reason
    f1, *_ = job.final.metrics
    assert f1.name == "micro_f1"
    assert f1.shared_before == job.final.shared_before
    assert f1.shared_before > 0.7 > f1.floor
    config = json.loads((exported(site, "token-classification") / "adapter_config.json").read_text())
    assert config["task_type"] == "TOKEN_CLS"
    assert config["modules_to_save"] == ["classifier"]
