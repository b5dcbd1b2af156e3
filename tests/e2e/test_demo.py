"""`fedhft demo` as a person runs it: real processes, files on disk, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
        "--devices", "none", *arguments,
    ]  # fmt: skip


def command_of(process: int) -> bytes:
    """Its command line; empty when it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def children_of(folder: Path) -> list[int]:
    """Processes whose command line names `folder`."""
    ids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [one for one in ids if one != os.getpid() and str(folder).encode() in command_of(one)]


def started_by(process: int) -> set[int]:
    """Its child processes."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found |= {int(entry.name)} if parent == process else set()
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


def wait_until(true: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


def test_a_demo_of_unequal_devices_plans_by_what_they_were_measured_to_do(tmp_path: Path) -> None:
    data, model = write_data(tmp_path / "data"), tiny_model(tmp_path / "model", layers=2)
    devices = tmp_path / "devices.toml"
    devices.write_text(
        '[devices.box]\nclients = ["client-01"]\nmemory = "2GiB"\n'
        '[devices.phone]\nclients = ["client-02"]\ncpu = 0.1\nup = "1 Mbit/s"\n'
    )
    options = ["--data", str(data), "--model", str(model), "--clusters", "1", "--devices", str(devices)]
    ended = subprocess.run(demo(tmp_path, *options), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0, ended.stderr
    (run,) = json.loads(ended.stdout)["runs"]
    plans = {one["client"]: one for one in run["devices"]}
    assert {name: (one["device"], one["cpu"]) for name, one in plans.items()} == {
        "client-01": ("box", 1.0),
        "client-02": ("phone", 0.1),
    }
    history = json.loads((tmp_path / "out" / "fedhft" / "history.json").read_text())
    assert history["spec"]["method"]["allocation"] == "capacity"
    assert history["spec"]["client_tiers"] == {}
    assert {one["client"]: one["tier"] for one in history["clients"]} == {
        "client-01": "density-1",
        "client-02": "density-0.5",
    }
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## Devices and plans" in report
    assert "was not told what agents were held to" in report
    assert "Where the time of a client went" in report
    assert none_left(tmp_path)


def test_a_demo_over_mutual_tls_completes_and_leaves_no_key_behind(tmp_path: Path) -> None:
    model, data = tiny_model(tmp_path / "model"), write_data(tmp_path / "data")
    done = subprocess.run(
        demo(tmp_path, "--data", str(data), "--model", str(model), "--clusters", "1", "--rounds", "1", "--tls"),
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["rounds"] == 1
    assert [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".key", ".crt")] == []
    assert none_left(tmp_path)


@pytest.mark.parametrize(
    ("number", "code", "terminal"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)],
    ids=["Ctrl-C in a terminal", "terminated, its pipe closed"],
)
def test_an_interrupted_demo_says_so_ends_soon_and_leaves_no_process_behind_whoever_listens(
    tmp_path: Path, number: signal.Signals, code: int, terminal: bool
) -> None:
    model, data = tiny_model(tmp_path / "model"), write_data(tmp_path / "data")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    running = subprocess.Popen(
        demo(tmp_path, "--data", str(data), "--model", str(model), "--rounds", "1000"),
        stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "400"},
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
            while piece := os.read(ours, 4096):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    if terminal:
        reader.start()
    children: set[int] = set()
    try:
        log = tmp_path / "out" / "fedhft" / "run" / "logs" / "client-02.log"
        wait_until(lambda: log.exists() and "listening" in log.read_text(), 120, lambda: shown)
        children = started_by(running.pid)
        assert len(children) == CLIENTS + 4  # the aggregator, the clusterer, Redis and what guards it
        stuck = next(child for child in children if b"client-02" in command_of(child))
        os.kill(stuck, signal.SIGSTOP)  # as deaf to a request to stop as an agent that is importing torch
        assert b"stopping" not in shown
        if not terminal:
            os.close(ours)  # as when Ctrl-C has ended `tee` too
        running.send_signal(number)
        if terminal:
            wait_until(lambda: b"stopping the federation" in shown, 2, lambda: shown)
        running.wait(timeout=10)
        left = [command_of(child) for child in children if Path(f"/proc/{child}").exists()]
    finally:
        running.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        running.communicate()
        if terminal:
            reader.join(10)
            os.close(ours)
    assert running.returncode == code, shown
    assert left == []
    if terminal:
        assert f"what was written so far is in {tmp_path / 'out'}".encode() in shown
        assert b"Traceback" not in shown


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
