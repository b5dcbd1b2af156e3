"""What TensorBoard and MLflow are told of a job, read back as they would read it."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.reporting.trackers.figures import figures_of
from fedhft.reporting.trackers.opened import tracking
from fedhft.reporting.trackers.tensorboard import _masked
from fedhft.v1 import jobs_pb2


def summary(number: int, **fields: Any) -> jobs_pb2.RoundSummary:
    return jobs_pb2.RoundSummary(round=number, seconds=1.5, asked=3, accepted=2, payload_bytes_up=100, **fields)


def a_job() -> list[jobs_pb2.Job]:
    """What a watch brings: rounds 1 and 2, then 2 again with 3, then the end."""
    metric = jobs_pb2.MetricFigures(name="accuracy", personal_before=0.75)
    tier = jobs_pb2.TierFigures(tier="small", clients=2, peak_rss_bytes_max=7)
    one = summary(1, personal_before_mean=0.5, metrics=[metric], tiers=[tier])
    two, three = summary(2, personal_before_mean=0.0), summary(3, shared_before=0.9)
    return [
        jobs_pb2.Job(job="tickets", status="running", history=[one, two]),
        jobs_pb2.Job(job="tickets", status="running", history=[two, three]),
        jobs_pb2.Job(job="tickets", status="completed", final=summary(4, personal_after_mean=0.8)),
    ]


def test_figures_are_what_was_measured() -> None:
    found = figures_of(a_job()[0].history[0])
    assert found["personal_before_mean"] == 0.5
    assert found["accuracy/personal_before"] == 0.75
    assert found["tier/small/peak_rss_bytes_max"] == 7
    assert not {"round", "shared_before", "accuracy/shared_before"} & found.keys()
    assert figures_of(summary(2, personal_before_mean=0.0))["personal_before_mean"] == 0.0
    assert "residual_norm" not in figures_of(summary(2, residual_norm=float("nan")))


# -- TensorBoard


def test_a_checksum_is_that_of_the_format() -> None:
    # CRC-32C of "123456789" is E3069283; masked as TensorFlow's records mask it.
    crc = 0xE3069283
    assert struct.unpack("<I", _masked(b"123456789"))[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(folder: Path) -> list[bytes]:
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        length = struct.unpack("<Q", data[:8])[0]
        assert data[8:12] == _masked(data[:8])
        assert data[12 + length : 16 + length] == _masked(data[12 : 12 + length])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_tensorboards_file_has_every_round_once_and_is_begun_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with tracking([f"tensorboard={tmp_path}"], "tickets") as trackers:
            for change in a_job():
                trackers.tell(change)
    found = records(tmp_path / "tickets")
    assert len(found) == 5  # the version, three rounds, the end
    assert found[0].endswith(b"brain.Event:2")
    assert b"accuracy/personal_before" in found[1]
    assert b"final/personal_after_mean" in found[4]


def test_tensorboard_itself_reads_them(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracking([f"tensorboard={tmp_path}"], "tickets") as trackers:
        for change in a_job():
            trackers.tell(change)
    found = reader.EventAccumulator(str(tmp_path / "tickets"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("personal_before_mean")] == [(1, 0.5), (2, 0.0)]
    assert [(e.step, round(e.value, 5)) for e in found.Scalars("final/personal_after_mean")] == [(4, 0.8)]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FedhftError, match=r"--tracker = .*: cannot be written") as refused,
        tracking([f"tensorboard={tmp_path / 'file'}"], "tickets"),
    ):
        pass
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


# -- MLflow


class Stub(ThreadingHTTPServer):
    """The calls of MLflow's REST interface that are made, with a memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Calls)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.experiments: dict[str, str] = {}
        self.authorisation: set[str | None] = set()
        self.seen: list[str | None] = []
        """Authorisation of every GET."""
        self.fails = False
        self.answer: bytes | None = None
        """What is answered to every POST instead."""
        self.elsewhere = ""
        """Where every POST is redirected to."""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Calls(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self.server.seen.append(self.headers["Authorization"])
        name = self.path.rpartition("=")[2]
        found = self.server.experiments.get(name)
        self._answer(200, {"experiment": {"experiment_id": found}}) if found else self._answer(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/api/2.0/mlflow/")
        self.server.calls.append((path, body))
        self.server.authorisation.add(self.headers["Authorization"])
        if self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere)
            self.end_headers()
        elif self.server.answer is not None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.answer)
        elif self.server.fails:
            self._answer(500, {})
        elif path == "experiments/create":
            self.server.experiments[body["name"]] = "7"
            self._answer(200, {"experiment_id": "7"})
        else:
            self._answer(200, {"run": {"info": {"run_id": "r1"}}} if path == "runs/create" else {})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Stub]:
    server = Stub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Stub]:
    with serving() as server:
        yield server


def test_mlflow_gets_a_run_with_every_round_as_a_step(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    for _ in range(2):  # the experiment is there the second time
        with tracking([f"mlflow={stub.uri}"], "tickets") as trackers:
            for change in a_job():
                trackers.tell(change)
    paths = [path for path, _ in stub.calls]
    one = ["runs/create", *["runs/log-batch"] * 4, "runs/update"]
    assert paths == ["experiments/create", *one, *one]
    assert stub.authorisation == {"Bearer secret"}
    created, first = stub.calls[1][1], stub.calls[2][1]
    assert (created["run_name"], created["experiment_id"], first["run_id"]) == ("tickets", "7", "r1")
    assert {m["step"] for m in first["metrics"]} == {1}
    assert {m["key"]: m["value"] for m in first["metrics"]}["accuracy/personal_before"] == 0.75
    assert stub.calls[-1][1]["status"] == "FINISHED"


def test_an_mlflow_that_fails_is_named(stub: Stub) -> None:
    stub.fails = True
    with (
        pytest.raises(FedhftError, match=r"mlflow=http.*: answers 500 to experiments/create") as failed,
        tracking([f"mlflow={stub.uri}"], "tickets"),
    ):
        pass
    assert failed.value.code is ErrorCode.SERVER_UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"[" * 5000, b'{"experiment_id": 7}', b'{"experiment_id": ""}', b"<html>", b'{"experiment_id": NaN}'],
)
def test_an_answer_that_is_not_mlflows_is_refused(stub: Stub, answer: bytes) -> None:
    stub.answer = answer
    with (
        pytest.raises(FedhftError, match=r"--tracker.*mlflow=http") as refused,
        tracking([f"mlflow={stub.uri}"], "tickets"),
    ):
        pass
    assert refused.value.code is ErrorCode.SERVER_UNAVAILABLE


def test_a_redirect_is_not_followed_with_credentials(stub: Stub, other: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret\n")
    stub.elsewhere = other.uri
    with (
        pytest.raises(FedhftError, match="answers 302 to experiments/create"),
        tracking([f"mlflow={stub.uri}"], "tickets"),
    ):
        pass
    assert (stub.authorisation, other.seen) == ({"Bearer secret"}, [])


def test_what_was_opened_is_closed_when_the_next_tracker_cannot_be(stub: Stub) -> None:
    with pytest.raises(FedhftError, match="is not a tracker"), tracking([f"mlflow={stub.uri}", "wandb=x"], "tickets"):
        pass
    assert stub.calls[-1] == ("runs/update", {**stub.calls[-1][1], "status": "KILLED"})


def test_one_tracker_that_cannot_be_closed_leaves_no_other_open(stub: Stub, other: Stub) -> None:
    watching = ExitStack()
    watching.enter_context(tracking([f"mlflow={stub.uri}", f"mlflow={other.uri}"], "tickets"))
    other.fails = True
    with pytest.raises(FedhftError, match="answers 500 to runs/update"):
        watching.close()
    assert stub.calls[-1][0] == "runs/update"


def test_figures_beyond_float32_are_written_as_its_largest(tmp_path: Path) -> None:
    with tracking([f"tensorboard={tmp_path}"], "tickets") as trackers:
        trackers.tell(jobs_pb2.Job(job="tickets", history=[summary(1, residual_norm=1e300)]))
    assert struct.pack("<f", np.finfo(np.float32).max) in records(tmp_path / "tickets")[1]


@pytest.mark.parametrize(
    "text",
    [
        "wandb=x",
        "tensorboard",
        "tensorboard=",
        "tensorboard=a\0b",
        "mlflow=",
        "mlflow=file:///tmp/runs",
        "mlflow=http://[",
        "mlflow=http:",
        "mlflow=http://host:x",
        "mlflow=http://host/a b",
        "mlflow=http://h\u00f6st",
    ],
)
def test_another_tracker_is_refused(text: str) -> None:
    with pytest.raises(FedhftError) as refused, tracking([text], "tickets"):
        pass
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
