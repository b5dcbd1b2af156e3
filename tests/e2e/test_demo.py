"""`fedhft demo` as a person runs it: real processes, files on disk, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from tests.models import rows, tiny_model

pytestmark = pytest.mark.slow

CLIENTS = 2
TIMEOUT_S = 240


def write_data(folder: Path) -> Path:
    folder.mkdir()
    for split, offset, count in (("train", 0, 120), ("validation", 200, 24)):
        lines = [json.dumps(row) + "\n" for row in rows(count, offset)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "meta.json").write_text(json.dumps({"label_names": ["bad", "good"]}))
    return folder


def demo(tmp_path: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "fedhft.cli", "demo", "--out", str(tmp_path / "out"), "--clients", str(CLIENTS),
        "--per-client", "40", "--alpha", "5", "--rounds", "2", "--timeout", str(TIMEOUT_S), "--format", "json",
        *arguments,
    ]  # fmt: skip


def children_of(folder: Path) -> list[int]:
    """Processes whose command line or working data names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def none_left(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while children_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not children_of(folder)


def test_a_demo_prints_one_object_and_leaves_report_plots_history_and_adapters(tmp_path: Path) -> None:
    model, data = tiny_model(tmp_path / "model"), write_data(tmp_path / "data")
    done = subprocess.run(
        demo(tmp_path, "--data", str(data), "--model", str(model), "--compare", "local", "--clusters", "1"),
        capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "round 2" in done.stderr
    main, local = result["runs"]
    assert (main["method"], local["method"]) == ("fedhft", "local")
    assert main["rounds"] == local["rounds"] == 2
    assert [entry["round"] for entry in main["history"]] == [1, 2]
    assert all(entry["bytes_up"] > 0 and entry["bytes_down"] > 0 for entry in main["history"])
    assert main["personal"]["after"]["mean"] is not None
    assert main["validation"]["mass_weighted"] is not None
    assert main["agent_peak_rss_bytes"]["max"] > 50 * 2**20
    assert main["aggregator_cpu_seconds"] > 0
    # Local training shares nothing: its sockets carry control calls alone.
    assert main["bytes"]["up_per_client_round"] > 2 * local["bytes"]["up_per_client_round"] > 0
    assert local["adapters"] == []

    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text()) == result
    assert (out / "report.md").read_text().startswith("# Federation report")
    assert {path.name for path in (out / "plots").iterdir()} >= {"score-by-round.png", "bytes.png", "personal.png"}
    history = json.loads((out / "fedhft" / "history.json").read_text())
    assert {client["client"] for client in history["clients"]} == {"client-01", "client-02"}
    assert main["adapters"] == [str(out / "fedhft" / "adapters" / "cluster-0")]
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    adapted = PeftModel.from_pretrained(base, main["adapters"][0])
    assert any(torch.any(p != 0) for name, p in adapted.named_parameters() if "lora_B" in name)
    assert load_file(Path(main["adapters"][0]) / "adapter_model.safetensors")
    assert none_left(out)
    assert not (out / "fedhft" / "run").exists()

    again = subprocess.run(
        demo(tmp_path, "--data", str(data), "--model", str(model), "--clusters", "1", "--simulate", "--out",
             str(tmp_path / "simulated")),
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    (simulated,) = json.loads(again.stdout)["runs"]
    assert (simulated["validation"], simulated["personal"]) == (main["validation"], main["personal"])
    assert simulated["bytes"] == {"up_per_client_round": None, "down_per_client_round": None}
    assert (tmp_path / "simulated" / "report.md").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    model, data = tiny_model(tmp_path / "model"), write_data(tmp_path / "data")
    running = subprocess.Popen(
        demo(tmp_path, "--data", str(data), "--model", str(model), "--rounds", "1000"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        log = tmp_path / "out" / "fedhft" / "run" / "logs" / "client-02.log"
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            assert running.poll() is None, running.communicate()[1]
            time.sleep(0.1)
        assert len(children_of(tmp_path / "out")) > CLIENTS
        running.send_signal(number)
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == code, errors
    assert "Traceback" not in errors
    assert none_left(tmp_path / "out")


def test_a_failing_agent_ends_the_demo_with_its_exit_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    model, data = tiny_model(tmp_path / "model"), write_data(tmp_path / "data")
    (model / "tokenizer.json").unlink()
    done = subprocess.run(
        demo(tmp_path, "--data", str(data), "--model", str(model)),
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (16, ""), done.stderr
    assert "client-0" in done.stderr
    assert "no tokenizer files" in done.stderr
    assert none_left(tmp_path / "out")
