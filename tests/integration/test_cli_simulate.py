"""`fedhft simulate` with a real model, and the rows it hands to the clients a job names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from fedhft.datasets.partition import Partition
from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.job import JobSpec, read_job
from fedhft.local.base_model import MINILM, model_for, packaged_minilm
from fedhft.simulation.method_run import rows_for, run_simulated
from fedhft.store.in_memory import InMemoryStore
from tests.cli_runner import run_cli
from tests.demo_jobs import CLIENTS, spec_of
from tests.models import rows, tiny_model


def write_data(folder: Path) -> Path:
    folder.mkdir()
    for split, offset, count in (("train", 0, 160), ("validation", 200, 20)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count, offset)))
    (folder / "meta.json").write_text(json.dumps({"label_names": ["bad", "good"]}))
    return folder


def write_job(file: Path, model: Path, labels: str = '["bad", "good"]') -> str:
    file.write_text(
        f'name = "sim"\nseed = 1\n[model]\nname = "{model}"\n[task]\nlabels = {labels}\n'
        '[method]\npreset = "fedhft"\nclusters = 1\n[rounds]\ntotal = 2\nmin_clients = 3\n'
    )
    return str(file)


def test_a_simulation_reports_what_a_demo_reports_without_figures_of_sockets(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", tiny_model(tmp_path / "model"))
    done = run_cli(
        "simulate", job, "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "40",
        "--alpha", "5", "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["method"], run["clients"], run["rounds"]) == ("fedhft", 3, 2)
    assert run["personal"]["after"]["mean"] is not None
    assert run["validation"]["mass_weighted"] is not None
    assert run["bytes"] == {"up_per_client_round": None, "down_per_client_round": None}
    assert run["agent_peak_rss_bytes"] == {"max": None, "mean": None}
    assert run["aggregator_cpu_seconds"] is None
    assert [(entry["bytes_up"], entry["bytes_down"]) for entry in run["history"]] == [(None, None)] * 2
    assert "round 2" in done.stderr
    assert "best version: " in done.stderr


def test_a_simulation_that_gets_no_better_says_that_it_ended_early(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    job = write_job(file, tiny_model(tmp_path / "model"))
    text = file.read_text().replace("total = 2", "total = 9")
    file.write_text(text + "[stopping]\npatience = 1\nmin_delta = 0.99\n")
    done = run_cli(
        "simulate", job, "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "40"
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "ended early: 1 scored round without a version better than 0" in shown
    assert "round 2" in shown
    assert "round 3" not in shown


def test_a_simulation_over_devices_takes_their_time_keeps_rows_and_writes_adapters(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", tiny_model(tmp_path / "model"))
    (tmp_path / "job.toml").write_text((tmp_path / "job.toml").read_text() + "[adapter]\ndepth = 1\n")
    devices = tmp_path / "devices.toml"
    devices.write_text("[devices.box]\ncount = 3\nforward = 60.0\nbackward = 60.0\n")
    done = run_cli(
        "simulate", job, "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "40",
        "--devices", str(devices), "--cache", str(tmp_path / "cache"), "--export", str(tmp_path / "out"), "-o", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert all(entry["seconds"] > 120 for entry in run["history"])
    assert any((tmp_path / "cache").rglob("rows.bin"))
    (adapter,) = run["adapters"]
    assert json.loads((Path(adapter) / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_what_a_simulation_cannot_write_is_refused_before_it_trains(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", tiny_model(tmp_path / "model"))
    file = tmp_path / "job.toml"
    file.write_text(file.read_text().replace('preset = "fedhft"\nclusters = 1', 'preset = "local"'))
    done = run_cli(
        "simulate", job, "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "40",
        "--export", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code
    assert "local publishes no whole adapter; leave it out" in done.stderr
    assert "round 1" not in done.stdout


def test_a_simulation_on_a_starved_machine_does_not_lose_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaps = itertools.count(1.7e9, 20.0)  # 20 s pass between any two looks at the clock
    monkeypatch.setattr("fedhft.simulation.run.InMemoryStore", lambda: InMemoryStore(clock=lambda: next(leaps)))
    model = tiny_model(tmp_path / "model")
    spec = read_job(Path(write_job(tmp_path / "job.toml", model)))
    data = rows_for(spec, write_data(tmp_path / "data"), 3, per_client=20, kind=Partition.IID, alpha=1.0, groups=1)
    run = run_simulated(spec, data, str(model), lambda job: None)
    assert (run.job.status, run.result.rounds) == ("completed", 2)


def test_labels_that_are_not_the_datas_are_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", tmp_path / "model", '["good", "bad"]')
    done = run_cli("simulate", job, "--data", str(write_data(tmp_path / "data")), "--per-client", "10")
    assert done.returncode == OUTCOMES[ErrorCode.INVALID_DATA].exit_code
    assert "task.labels" in done.stderr


def handed(spec: JobSpec, clients: int | None) -> tuple[str, ...]:
    data = rows_for(spec, None, clients, per_client=20, kind=Partition.IID, alpha=1.0, groups=2)
    assert all((len(client.train), len(client.holdout)) == (16, 4) for client in data.clients)
    return tuple(client.client for client in data.clients)


def test_the_clients_a_job_names_get_the_rows() -> None:
    assert handed(spec_of(), None) == CLIENTS
    anybody = spec_of().model_copy(update={"clients": ()})
    assert handed(anybody, 3) == ("firm-01", "firm-02", "firm-03")
    assert len(handed(anybody, None)) == 8
    with pytest.raises(FedhftError, match="the job names 4"):
        handed(spec_of(), 3)


def test_the_packaged_model_stands_in_for_its_name_only() -> None:
    assert model_for(MINILM, None) == str(packaged_minilm())
    assert model_for(MINILM, "mine") == "mine"
    assert model_for("another/model", None) is None


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("[limits]\nupdate_norm = 1e-9\n", ErrorCode.NORM_TOO_LARGE),
        ("[limits]\nupdate_bytes = 10\n", ErrorCode.UPDATE_TOO_LARGE),
        (f'digest = "{"0" * 64}"\n', ErrorCode.INVALID_MODEL),
        ('[tiers.large]\nmin_memory = "1GiB"\n', ErrorCode.PLAN_TOO_LARGE),
    ],
)
def test_a_simulated_client_is_refused_for_what_a_real_one_is_refused_for(
    tmp_path: Path, rule: str, code: ErrorCode
) -> None:
    job = tmp_path / "job.toml"
    write_job(job, tiny_model(tmp_path / "model"))
    text = job.read_text()
    job.write_text(text.replace("[task]\n", f"{rule}[task]\n") if rule.startswith("digest") else text + rule)
    done = run_cli(
        "simulate", str(job), "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "20",
        "--alpha", "5",
    )  # fmt: skip
    assert done.returncode == OUTCOMES[code].exit_code, done.stderr


def test_devices_on_a_virtual_clock_decide_how_long_rounds_take(tmp_path: Path) -> None:
    job, devices = tmp_path / "job.toml", tmp_path / "devices.toml"
    write_job(job, tiny_model(tmp_path / "model"))
    devices.write_text("[devices.box]\ncount = 3\nforward = 2.0\nbackward = 2.0\n", encoding="utf-8")
    done = run_cli(
        "simulate", str(job), "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "20",
        "--alpha", "5", "--devices", str(devices), "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)["runs"][0]["history"]
    assert all(one["seconds"] > 10 for one in rounds)


def test_without_training_rounds_take_as_long_and_nothing_is_learnt(tmp_path: Path) -> None:
    job, devices = tmp_path / "job.toml", tmp_path / "devices.toml"
    write_job(job, tiny_model(tmp_path / "model"))
    job.write_text(job.read_text().replace('preset = "fedhft"', 'preset = "fedhft"\nallocation = "capacity"'))
    devices.write_text("[devices.box]\ncount = 3\nforward = 2.0\nbackward = 2.0\nfixed = 5.0\n", encoding="utf-8")
    common = [
        "simulate", str(job), "--data", str(write_data(tmp_path / "data")), "--clients", "3", "--per-client", "20",
        "--alpha", "5", "--devices", str(devices), "--format", "json",
    ]  # fmt: skip
    runs = []
    for options in ([], ["--no-training"]):
        done = run_cli(*common, *options)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout)["runs"][0])
    trained, untrained = runs
    seconds = [[entry["seconds"] for entry in run["history"]] for run in runs]
    assert seconds[0][0] == pytest.approx(seconds[1][0], rel=0.01)
    assert trained["personal"]["after"]["mean"] is not None
    assert untrained["personal"]["after"]["mean"] is None


def test_without_devices_there_is_nothing_to_study(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", tiny_model(tmp_path / "model"))
    done = run_cli("simulate", job, "--no-training")
    assert done.returncode == OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code
    assert "give --devices, and no --export" in done.stderr
