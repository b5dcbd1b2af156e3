"""An agent's session against a real aggregator process, a real Redis and a real (tiny) model."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fedhft_agent.energy import machine_meter
from fedhft_agent.owner_rules import OwnerRules
from fedhft_agent.transfers import PayloadCount, push_update

from fedhft.errors import ErrorCode, FedhftError
from fedhft.jobs.client import JobsClient
from fedhft.rpc.retry import CallStoppedError
from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import federation_pb2
from tests.agents import InProcessAgent, Site, running_site
from tests.models import tiny_model


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("sessions"), redis_url) as running:
        yield running


def updates(outcome: str) -> float:
    return REGISTRY.get_sample_value("fedhft_agent_updates_total", {"outcome": outcome}) or 0.0


def test_a_session_takes_a_job_from_joining_to_its_end(site: Site) -> None:
    spec = site.submit("whole", evaluation={"final": True})
    accepted = updates("accepted")
    with InProcessAgent(site, spec) as agent:
        finished = agent.run()
    assert finished.status == "completed"
    assert agent.trained == [1, 2]
    assert updates("accepted") - accepted == 2
    job = site.get("whole")
    assert [entry.accepted for entry in job.history] == [1, 1]
    assert job.results[0].client == "ash"
    assert job.results[0].personal_after > 0


def test_a_report_holds_the_bytes_that_blobs_and_sockets_took(site: Site) -> None:
    spec = site.submit("bytes", rounds={"total": 3}, evaluation={"final": True})
    with InProcessAgent(site, spec) as agent:
        agent.run()
    job = site.get("bytes")
    first, second, third = job.history
    assert first.payload_bytes_up > 500
    assert first.payload_bytes_down == 0
    assert second.payload_bytes_down > 500
    # The kernel's counters lag by the push they travel with, so the whole is compared: payload plus some framing.
    rounds = [first, second, third, job.final]
    up, down = sum(r.payload_bytes_up for r in rounds), sum(r.payload_bytes_down for r in rounds)
    assert up < sum(r.socket_bytes_up for r in rounds) < up + 20_000
    assert down < sum(r.socket_bytes_down for r in rounds) < down + 20_000
    assert 50e6 < first.peak_rss_bytes_max < 5e9


def test_a_report_holds_what_the_machine_used_meanwhile(site: Site, tmp_path: Path) -> None:
    supply = tmp_path / "class/hwmon/hwmon0"
    supply.mkdir(parents=True)
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "4000"}.items():
        (supply / name).write_text(text)
    counted = REGISTRY.get_sample_value("fedhft_agent_energy_joules_total") or 0.0
    spec = site.submit("energy", evaluation={"final": True})
    with InProcessAgent(site, spec, energy=machine_meter(root=tmp_path)) as agent:
        begun = time.monotonic()
        agent.run()
        most = 20.0 * (time.monotonic() - begun)
    rounds = site.get("energy").history
    told = sum(one.work.energy_joules for one in rounds)
    assert all(one.work.energy_joules >= 20.0 * one.train_seconds_mean > 0 for one in rounds)
    assert told < most
    assert told <= (REGISTRY.get_sample_value("fedhft_agent_energy_joules_total") or 0.0) - counted <= most


def test_an_update_trained_before_a_restart_is_delivered_and_not_trained_again(site: Site, tmp_path: Path) -> None:
    spec = site.submit("pending", rounds={"total": 1})
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        agent.session._join()
        task = agent.session._next_task().train
        agent.worker.train(task)
    with InProcessAgent(site, spec, state=tmp_path) as restarted:
        assert restarted.worker.pending() is not None
        assert restarted.run().status == "completed"
        assert restarted.trained == []
        assert restarted.worker.pending() is None


def test_an_update_whose_acknowledgement_was_lost_is_committed_after_a_restart(site: Site, tmp_path: Path) -> None:
    spec = site.submit("lost", rounds={"total": 2, "deadline": "60s"})
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        agent.session._join()
        draft = agent.worker.train(agent.session._next_task().train)
        header = federation_pb2.UpdateHeader(
            job="lost", round=1, digest=bytes.fromhex(draft.digest), size=len(draft.blob)
        )
        push_update(agent.connection, header, draft.blob, PayloadCount(), resume=False)
    repeated = updates("repeated")
    with InProcessAgent(site, spec, state=tmp_path) as restarted:
        assert restarted.run().status == "completed"
    assert updates("repeated") - repeated == 1
    assert restarted.trained == [2]
    assert [entry.accepted for entry in site.get("lost").history] == [1, 1]


def test_an_update_too_late_for_its_round_is_abandoned_and_the_next_round_trained(site: Site) -> None:
    spec = site.submit("late", rounds={"total": 2, "min_clients": 2, "quorum": 0.5, "deadline": "3s"})
    abandoned = updates("abandoned")
    with InProcessAgent(site, spec, "ash") as slow, InProcessAgent(site, spec, "birch") as quick:
        slow.session._join()
        quick.session._join()
        task = slow.session._next_task().train
        assert (task.round, task.view.version) == (1, 0)
        quick.session._guarded(1, lambda: quick.session._train(quick.session._next_task().train))
        time.sleep(4.0)
        slow.session._guarded(1, lambda: slow.session._train(task))
        assert updates("abandoned") - abandoned == 1
        assert slow.worker.pending() is None
        assert slow.session._next_task().train.round == 2
        with JobsClient(site.admin) as jobs:
            jobs.cancel("late", "seen enough")
        assert slow.run().status == "cancelled"  # though it can no longer be joined


def test_a_refused_update_is_given_up_and_its_round_is_not_trained_over_and_over(site: Site) -> None:
    spec = site.submit("norm", limits={"update_norm": 1e-9}, rounds={"total": 1, "deadline": "3s", "extensions": 0})
    refused = REGISTRY.get_sample_value("fedhft_agent_refusals_total", {"code": "norm_too_large"}) or 0.0
    with InProcessAgent(site, spec) as agent:
        finished = agent.run()
    assert finished.status == "failed"
    assert agent.trained == [1]
    assert agent.worker.pending() is None
    assert REGISTRY.get_sample_value("fedhft_agent_refusals_total", {"code": "norm_too_large"}) == refused + 1


def test_an_agent_the_job_has_lost_joins_again(site: Site) -> None:
    spec = site.submit("rejoin")
    with InProcessAgent(site, spec) as agent:
        agent.session._join()
        agent.connection.leave("rejoin")
        assert list(site.get("rejoin").clients) == []
        agent.session._next_task()
        assert list(site.get("rejoin").clients) == ["ash"]


def test_a_job_cancelled_while_training_ends_the_session(site: Site) -> None:
    spec = site.submit("cancelled")
    with InProcessAgent(site, spec) as agent, JobsClient(site.admin) as jobs:
        agent.worker.before_training = lambda: jobs.cancel("cancelled", "on purpose")
        finished = agent.run()
    assert (finished.status, finished.reason) == ("cancelled", "on purpose")
    assert agent.worker.pending() is None


def test_training_that_nobody_waits_for_any_more_is_broken_off(site: Site) -> None:
    spec = site.submit("vain", training={"epochs": 100, "batch_size": 1})
    broken_off = updates("broken_off")
    with InProcessAgent(site, spec, heartbeat_s=0.1) as agent, JobsClient(site.admin) as jobs:
        agent.worker.before_training = lambda: jobs.cancel("vain", "on purpose")
        finished = agent.run()
    assert finished.status == "cancelled"
    assert updates("broken_off") - broken_off == 1
    assert agent.worker.pending() is None


def test_a_client_that_trains_for_long_is_not_taken_for_dead_and_turns_to_the_next_round(site: Site) -> None:
    rules = {"total": 2, "min_clients": 2, "target": 0.5, "quorum": 0.5, "client_timeout": "1s", "deadline": "60s"}
    spec = site.submit("long", rounds=rules)
    with InProcessAgent(site, spec, "ash", heartbeat_s=0.2) as slow, InProcessAgent(site, spec, "birch") as quick:
        slow.session._join()
        quick.session._join()
        first = slow.session._next_task().train
        slow.worker.before_training = lambda: round_passes(quick)
        slow.session._guarded(1, lambda: slow.session._train(first))
        assert slow.worker.pending() is None
        second = slow.session._next_task().train
    assert (first.round, second.round) == (1, 2)


def round_passes(quick: InProcessAgent) -> None:
    """Longer than client_timeout, then the other client's update closes the round, then a sign of life is due."""
    time.sleep(2.0)
    task = quick.session._next_task().train
    quick.session._guarded(task.round, lambda: quick.session._train(task))
    deadline = time.monotonic() + 20
    while quick.session._next_task().WhichOneof("task") != "train":
        assert time.monotonic() < deadline, "round 2 did not open"
    time.sleep(1.0)


def test_another_model_is_refused_at_the_door(site: Site, tmp_path: Path) -> None:
    spec = site.submit("schema", rounds={"min_clients": 2})
    other = tiny_model(tmp_path / "other", layers=2, seed=9)
    with InProcessAgent(site, spec, "ash") as first, InProcessAgent(site, spec, "birch", model=other) as second:
        first.session._join()
        with pytest.raises(FedhftError, match="base_digest") as caught:
            second.run()
    assert caught.value.code is ErrorCode.SCHEMA_MISMATCH
    assert list(site.get("schema").clients) == ["ash"]


def test_a_tier_the_job_does_not_have_is_refused_by_name(site: Site) -> None:
    spec = site.submit("tier")
    with InProcessAgent(site, spec, tier="huge") as agent, pytest.raises(FedhftError, match="tier = 'huge'") as caught:
        agent.run()
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_plan_that_cannot_fit_is_refused_with_its_figures(site: Site) -> None:
    spec = site.submit("memory")
    figures = r"--memory = 50000: .* needs at least \d+ bytes, and no tier of the job is smaller"
    with InProcessAgent(site, spec, memory_bytes=50_000) as agent, pytest.raises(FedhftError, match=figures) as caught:
        agent.run()
    assert caught.value.code is ErrorCode.PLAN_TOO_LARGE
    assert agent.trained == []


def test_a_stop_between_two_batches_ends_the_session_and_leaves_no_draft(site: Site, tmp_path: Path) -> None:
    spec = site.submit("stop")
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        agent.worker.before_training = agent.stop.request
        with pytest.raises(CallStoppedError):
            agent.run()
    with InProcessAgent(site, spec, state=tmp_path) as restarted:
        assert restarted.worker.pending() is None
        assert restarted.run().status == "completed"
        assert restarted.trained == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def state_faults(fault: str) -> float:
    return REGISTRY.get_sample_value("fedhft_agent_state_faults_total", {"fault": fault}) or 0.0


def test_on_a_full_disk_updates_are_delivered_from_memory_and_kept_again_once_there_is_room(
    site: Site, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = site.submit("full-disk", rounds={"total": 3})
    filler = small_disk / "filler"
    unwritten = state_faults("unwritten")
    with InProcessAgent(site, spec, state=small_disk) as agent:
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass

        def make_room_in_round_three() -> None:
            if agent.trained == [1, 2, 3]:
                filler.unlink()

        agent.worker.before_training = make_room_in_round_three
        assert agent.run().status == "completed"
        assert agent.trained == [1, 2, 3]
    assert [entry.accepted for entry in site.get("full-disk").history] == [1, 1, 1]
    assert state_faults("unwritten") - unwritten == 4  # draft and state of two rounds
    said = [record for record in caplog.records if record.message.startswith("state file cannot be written")]
    assert {record.folder for record in said} == {str(small_disk / "full-disk")}  # type: ignore[attr-defined]
    assert [path.name for path in (small_disk / "full-disk").iterdir()] == ["memory.safetensors"]
    with InProcessAgent(site, spec, state=small_disk) as restarted:
        assert restarted.worker._state.round == 3


def test_an_agent_whose_files_were_damaged_goes_on_from_the_servers_state(site: Site, tmp_path: Path) -> None:
    spec = site.submit("damaged", rounds={"total": 3})
    damaged = state_faults("damaged")
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        agent.session._join()
        agent.session._train(agent.session._next_task().train)
        agent.worker.train(agent.session._next_task().train)
    for name in ("memory", "draft"):
        file = tmp_path / "damaged" / f"{name}.safetensors"
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 4
        file.write_bytes(whole)
    with InProcessAgent(site, spec, state=tmp_path) as restarted:
        assert restarted.run().status == "completed"
        assert restarted.trained == [2, 3]
    assert state_faults("damaged") - damaged == 2
    assert [entry.accepted for entry in site.get("damaged").history] == [1, 1, 1]


def test_a_draft_is_not_delivered_once_its_owner_has_forbidden_it(site: Site, tmp_path: Path) -> None:
    spec = site.submit("forbidden")
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        agent.session._join()
        agent.worker.train(agent.session._next_task().train)
    rules = OwnerRules(least_updates=2)
    said = r"task\.quorum = 1 is below least_updates = 2"
    with InProcessAgent(site, spec, state=tmp_path, rules=rules) as restarted, pytest.raises(FedhftError, match=said):
        restarted.run()
    assert site.get("forbidden").accepted == 0
    with InProcessAgent(site, spec, state=tmp_path) as allowed:
        assert allowed.run().status == "completed"
        assert allowed.trained == [2]


def test_plans_by_capacity_keep_to_what_the_owner_allows(site: Site) -> None:
    spec = site.submit("kept-to", method="legend", evaluation={"final": True})
    with InProcessAgent(site, spec, rules=OwnerRules(most_depth=1, most_steps=1)) as agent:
        assert agent.worker.schema.layers > 1
        assert agent.run().status == "completed"
        assert agent.trained == [1, 2]
    job = site.get("kept-to")
    assert [(entry.work.depth_most, entry.work.steps) for entry in job.history] == [(1, 1), (1, 1)]
    assert job.results[0].client == "ash"


def test_a_later_agent_of_the_same_client_takes_over(site: Site) -> None:
    spec = site.submit("twins")
    with InProcessAgent(site, spec) as first:
        first.session._join()
        with InProcessAgent(site, spec) as second:
            with pytest.raises(FedhftError) as caught:
                first.run()
            assert caught.value.code is ErrorCode.LEASE_SUPERSEDED
            assert second.run().status == "completed"


def test_a_method_that_shares_nothing_runs_to_its_end(site: Site, tmp_path: Path) -> None:
    spec = site.submit("alone", method="local")
    with InProcessAgent(site, spec, state=tmp_path) as agent:
        assert agent.run().status == "completed"
    assert agent.trained == [1, 2]
    assert sum(entry.payload_bytes_up for entry in site.get("alone").history) == 0
