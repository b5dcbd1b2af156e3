"""What `benchmarks.fuzz` throws inputs at: for every decoder, valid inputs, how they are changed, and the decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from benchmarks.fuzz_capacity import capacity_targets
from benchmarks.fuzz_files import (
    PACKERS,
    TABLES,
    adapter_targets,
    certificate_targets,
    config_reader,
    file_target,
    parquet_targets,
    settings_reader,
    state_target,
)
from benchmarks.fuzz_inputs import Target, as_text, from_bytes, from_json, from_messages
from fedhft.adapter import AdapterSchema, AdapterState, MaskedDelta, MaskedMatrix, Parameter, Part, Slot, TensorKey
from fedhft.aggregation.versions import apply_delta
from fedhft.clustering.gaussian_mixture import MixtureModel
from fedhft.clustering.prediction import verdict
from fedhft.clustering.signature import DIMENSIONS, check_halves, joined
from fedhft.coordination.history import RoundHistory
from fedhft.documents import parse_toml
from fedhft.errors import ErrorCode
from fedhft.ids import parse_client_id, parse_job_id
from fedhft.job import JobSpec, load_canonical, parse_job, submitted_job
from fedhft.planning.estimates import Durations
from fedhft.planning.fold_memory import fold_bytes
from fedhft.records import ClientRecord, JobRecord, JobStatus, RoundRecord, UpdateRecord
from fedhft.reporting.trackers.opened import parse_tracker
from fedhft.rounds import requests
from fedhft.rounds.acceptance import (
    Awaited,
    check_blob,
    check_evaluation,
    check_header,
    evaluation_record,
    expected_keys,
    largest_update,
    update_record,
)
from fedhft.rounds.joining import Application, capacity_of, check_application, check_enrolment, client_record
from fedhft.rounds.opening import open_round
from fedhft.rounds.reports import read_report, write_report
from fedhft.rounds.starting import checked_start
from fedhft.rounds.summary import readable_reports, results_of, summarise
from fedhft.rpc.address import parse_address
from fedhft.store.reading import reading
from fedhft.v1 import adapter_pb2, capacity_pb2, federation_pb2, tensor_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.entropy import pack, unpack
from fedhft.wire.rows import decode_subset, encode_subset
from fedhft.wire.values import ENCODINGS, Streams, decode_values, encode_values

SCHEMA = AdapterSchema(
    base_digest="0" * 64,
    tokenizer_digest="1" * 64,
    architecture="fuzz",
    labels=("a", "b"),
    layers=2,
    slots=tuple(Slot(f"layer.{i}.query", i, 16, 24, 4) for i in range(2)),
    head=(Parameter("classifier.weight", (2, 16)), Parameter("classifier.bias", (2,))),
)
SPEC = parse_job(
    {
        "name": "fuzz", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "adapter": {"rank": 4},
        "method": {"preset": "fedhft", "clusters": 2}, "tiers": {"small": {"density": 0.5}, "large": {}},
    }
)  # fmt: skip
WARM = SPEC.model_copy(
    update={"adapter": SPEC.adapter.model_copy(update={"origin": "earlier"})},
)
PLANNED = parse_job(
    {
        "name": "fuzz", "model": {"name": "m"}, "task": {"labels": ["a", "b"]},
        "adapter": {"rank": 4, "ranks": "uniform"}, "method": "legend",
    }
)  # fmt: skip
UPDATE, DELTA = adapter_pb2.BLOB_KIND_UPDATE, adapter_pb2.BLOB_KIND_DELTA
_SPLITS = (federation_pb2.Score.SPLIT_PERSONAL, federation_pb2.Score.SPLIT_SHARED)
_MOMENTS = (federation_pb2.Score.MOMENT_BEFORE, federation_pb2.Score.MOMENT_AFTER)
SIGNATURE = tuple(float(i == 0) for i in range(DIMENSIONS))


def _round() -> RoundRecord:
    clients = {n: ClientRecord(client=n, tier="small", samples=9, data_digest="", joined_ms=0) for n in ("a", "b")}
    return open_round(
        SPEC, SCHEMA, number=2, evaluation=False, base_version=1, memberships=None, clients=clients, asked=("a", "b"),
        now_ms=0,
    )  # fmt: skip


ROUND = _round()
AWAITED = Awaited(SPEC, SCHEMA, 1, ROUND.participants["a"])
JOB = JobRecord(job="fuzz", spec_json=SPEC.canonical(), status=JobStatus.RUNNING, reason="", created_ms=0)


def _delta(masked: bool) -> MaskedDelta:
    rng = np.random.default_rng(3)
    tensors = {}
    for key in expected_keys(SPEC, SCHEMA, AWAITED.plan):
        rows, cols = SCHEMA.shape(key)
        kept = AWAITED.plan.rows_allowed(key, SCHEMA) if masked else rows
        index = None if kept == rows else np.sort(rng.permutation(rows)[:kept]).astype(np.int32)
        tensors[key] = MaskedMatrix(rows, cols, index, rng.standard_normal((kept, cols)).astype(np.float32))
    return MaskedDelta(tensors)


def _products() -> MaskedDelta:
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((24, 3)).astype(np.float32), rng.standard_normal((16, 3)).astype(np.float32)
    dense = rng.standard_normal((24, 16)).astype(np.float32)
    return MaskedDelta(
        {
            TensorKey("layer.0.query", Part.LEFT): MaskedMatrix.full(left),
            TensorKey("layer.0.query", Part.RIGHT): MaskedMatrix.full(right),
            TensorKey("layer.1.query", Part.PRODUCT): MaskedMatrix.full(dense),
        }
    )


# -- the wire


def _blob(data: bytes) -> None:
    check_blob(AWAITED, data)


def _published(data: bytes) -> None:
    apply_delta(AdapterState(0, 1), decode(data, SCHEMA, kind=DELTA))


def _rows(data: bytes) -> None:
    message = _parsed(tensor_pb2.Subset, data)
    if message is not None:
        decode_subset(message, 1000)


def _stream(data: bytes) -> None:
    message = _parsed(tensor_pb2.Stream, data)
    if message is not None:
        unpack(message, 3000)


_VALUES = np.random.default_rng(5).standard_normal(300).astype(np.float32)
_SIZES = (100, 200)


def _value_seeds() -> list[bytes]:
    """Encoding, scale base and group, then streams of coded values one after another."""
    seeds = []
    for encoding in ENCODINGS.values():
        streams = encode_values(_VALUES, _SIZES, encoding, 64)
        head = bytes((encoding, len(streams.scales))) + streams.scale_base.to_bytes(4, "little")
        seeds.append(head + b"".join(streams.codes) + b"".join(streams.scales))
    return seeds


def _values(data: bytes) -> None:
    head, rest = data[:6].ljust(6, b"\0"), data[6:]
    encoding = 1 + head[0] % 4
    width = {1: 4, 2: 2, 3: 2, 4: 1}[encoding]
    codes = tuple(rest[i * 300 : (i + 1) * 300].ljust(300, b"\0") for i in range(width))
    planes = 1 + head[1] % 2
    scales = tuple(rest[300 + i * 6 : 306 + i * 6].ljust(6, b"\0") for i in range(planes)) if encoding == 4 else ()
    decode_values(Streams(codes, scales, int.from_bytes(head[2:6], "little")), _SIZES, encoding, 64)


def _parsed(kind: type[Message], data: bytes) -> Any:
    """A message, or None for bytes that gRPC would refuse before we see them."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


# -- what agents and people send


def _schema(data: bytes) -> None:
    schema = AdapterSchema.from_json(as_text(data))
    if AdapterSchema.from_json(schema.to_json()) != schema:
        raise AssertionError("a schema does not come back from its own text")
    fold_bytes(SPEC, schema)
    largest_update(SPEC, schema, AWAITED.plan)


def _job_json(data: bytes) -> None:
    _check_job(submitted_job(as_text(data)))


def _job_toml(data: bytes) -> None:
    _check_job(parse_job(parse_toml(data, "job", ErrorCode.INVALID_JOB)))


def _check_job(spec: JobSpec) -> None:
    if load_canonical(spec.canonical()) != spec:
        raise AssertionError("a job does not come back from its stored form")
    parse_job_id(spec.name)


def _join(data: bytes) -> None:
    request = _parsed(federation_pb2.JoinRequest, data)
    if request is None:
        return
    parse_client_id(request.client)
    application = Application(
        client=request.client,
        memory_bytes=0,
        tier=request.tier,
        schema=AdapterSchema.from_json(request.schema_json),
        samples=request.samples,
        data_digest=request.data_digest,
        signature=tuple(request.signature),
        halves=tuple(request.signature_halves),
        has_shared_validation=request.has_shared_validation,
        trial=Durations.of(request.durations) if request.HasField("durations") else None,
        keeps_frozen_layers=request.keeps_frozen_layers,
        deepest=request.deepest,
        too_large=requests.plans_too_large(request.too_large),
    )
    check_application(SPEC, application)
    client_record(SPEC, application, None, 0).model_dump_json()
    capacity_of(application, None)


def _halves(data: bytes) -> None:
    """Halves of a client among those of five that are in two groups."""
    found = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    check_halves(found.tolist())
    if not len(found):
        return
    others = np.eye(5, DIMENSIONS)[[0, 0, 0, 1, 1]]
    first, second = (np.vstack([others, half]) for half in found.astype(np.float64).reshape(2, DIMENSIONS))
    joined(*found.reshape(2, DIMENSIONS))
    said = verdict(first, second, 3)
    if not 1 <= said.clusters <= 3 or not np.isfinite([said.reliability, said.certainty]).all():
        raise AssertionError(f"halves that were accepted say {said}")


def _start(data: bytes) -> None:
    checked_start(WARM, SCHEMA.to_json(), [data])


def _tracker(data: bytes) -> None:
    parse_tracker(as_text(data))


def _enroll(data: bytes) -> None:
    request = _parsed(federation_pb2.EnrollRequest, data)
    if request is not None:
        parse_client_id(request.client)
        check_enrolment(request.memory_bytes, request.agent_version, request.lease_token)


def _push(data: bytes) -> None:
    header = _parsed(federation_pb2.UpdateHeader, data)
    if header is None:
        return
    awaited = check_header(JOB, SPEC, SCHEMA, ROUND, "a", header)
    _summarise(update_record("a", header, awaited.part))


def _evaluation(data: bytes) -> None:
    report = _parsed(federation_pb2.ReportEvaluationRequest, data)
    if report is None:
        return
    check_evaluation(SPEC, ROUND.model_copy(update={"evaluation": True}), report)
    _summarise(evaluation_record("a", report, ROUND.participants["a"]))


def _summarise(record: UpdateRecord) -> None:
    again = UpdateRecord.model_validate_json(record.model_dump_json())
    reports, unreadable = readable_reports(ROUND, {"a": again, "b": again.model_copy(update={"client": "b"})})
    if unreadable:
        raise AssertionError(f"an accepted report cannot be read: {unreadable}")
    summarise(ROUND, reports, {}, 1000).SerializeToString()
    results_of(reports)


def _stored_report(data: bytes) -> None:
    read_report(data)


def _mixture(data: bytes) -> None:
    MixtureModel.from_json(as_text(data))


def _address(data: bytes) -> None:
    parse_address(as_text(data), "server")


# -- what the store holds


def _stored_round(data: bytes) -> None:
    with reading("the round"):
        RoundRecord.from_json(data)


def _stored_history(data: bytes) -> None:
    RoundHistory.from_json(as_text(data))


def targets(folder: Path) -> list[Target]:
    """Every target. folder: where files are written, best in memory (/dev/shm)."""
    blobs = [
        encode(_delta(masked), SCHEMA, kind=UPDATE, encoding=encoding, version=1)
        for masked in (False, True)
        for encoding in ENCODINGS
    ]
    products = [
        encode(delta, SCHEMA, kind=DELTA, encoding=encoding, scope="cluster-0", version=1)
        for delta in (_products(), _delta(True))
        for encoding in ("fp32", "int8")
    ]
    picks = np.sort(np.random.default_rng(6).permutation(1000)[:200]).astype(np.int64)
    subsets = [encode_subset(pick, 1000).SerializeToString() for pick in (picks, picks[:5], np.arange(1000)[7:])]
    subsets.append(tensor_pb2.Subset(bitmap=bytes(125)).SerializeToString())
    raws = [bytes(3000), b"abc" * 1000, np.random.default_rng(7).bytes(3000), bytes(range(250)) * 12]
    streams = [pack(raw).SerializeToString() for raw in raws]
    spec_json = json.loads(SPEC.canonical())
    toml = b'name = "x"\nseed = 1\n[model]\nname = "m"\n[task]\nlabels = ["a", "b"]\n[limits]\nupdate_bytes = "2GiB"\n'
    join = federation_pb2.JoinRequest(
        client="a", lease_token="t" * 64, job="fuzz", schema_json=SCHEMA.to_json(), samples=10, signature=SIGNATURE,
        signature_halves=2 * SIGNATURE, data_digest="0" * 64, keeps_frozen_layers=True, deepest=1,
        durations=capacity_pb2.Durations(forward_seconds=1, forward_layer_steps=6, backward_layer_steps=6),
        too_large=[adapter_pb2.PlanTooLarge(tier="large", needed_bytes=2 << 30, allowed_bytes=1 << 30)],
    ).SerializeToString()  # fmt: skip
    enroll = federation_pb2.EnrollRequest(client="a", protocol_version=1, agent_version="1.0", memory_bytes=1 << 30)
    scores = [
        federation_pb2.Score(
            split=s, moment=m, view=federation_pb2.Score.VIEW_OWN, value=0.5, loss=0.7, rows=9, majority=0.5
        )
        for s in _SPLITS
        for m in _MOMENTS
    ]
    figures = federation_pb2.Measurements(train_seconds=1.5, steps=3, peak_rss_bytes=1 << 28, socket_bytes_sent=999)
    push = federation_pb2.UpdateHeader(
        client="a", lease_token="t" * 64, job="fuzz", round=2, base_version=1, digest=bytes(32), size=100,
        scores=scores, measurements=figures, signature=SIGNATURE,
    ).SerializeToString()  # fmt: skip
    evaluation = federation_pb2.ReportEvaluationRequest(
        client="a", lease_token="t" * 64, job="fuzz", round=2, version=1, scores=scores, measurements=figures
    ).SerializeToString()
    report = write_report(scores, figures, SIGNATURE)
    mixture = {
        "format": 1, "confidence": 0.5, "covariance": "diag", "center": "AAAAAAAA8D8=", "basis": "AAAAAAAA8D8=",
        "weights": "AAAAAAAA8D8=", "means": "AAAAAAAA8D8=", "covariances": "AAAAAAAA8D8=",
    }  # fmt: skip
    history = {"summary": {"round": 1, "seconds": 1.5}, "results": [{"client": "a"}], "evaluation": False}
    halves = np.array(2 * SIGNATURE, "<f4").tobytes()
    starts = [
        encode(_delta(False), SCHEMA, kind=adapter_pb2.BLOB_KIND_SNAPSHOT, encoding=encoding, scope=scope, version=0)
        for encoding in ("fp32", "int8")
        for scope in ("shared", "cluster-0")
    ]
    whole = replace(SCHEMA, slots=(), weights=(Parameter("w", (4, 4)), Parameter("b", ())))
    return [
        Target("blob", from_messages(adapter_pb2.AdapterBlob, blobs), _blob),
        Target("published", from_messages(adapter_pb2.AdapterBlob, products), _published),
        Target("rows", from_messages(tensor_pb2.Subset, subsets), _rows),
        Target("entropy", from_messages(tensor_pb2.Stream, streams), _stream),
        Target("values", from_bytes(_value_seeds()), _values),
        Target("schema", from_json([json.loads(SCHEMA.to_json()), json.loads(whole.to_json())]), _schema),
        Target("job-json", from_json([spec_json, {"name": "x", "model": {"name": "m"}, "task": {}}]), _job_json),
        Target("job-toml", from_bytes([toml]), _job_toml),
        Target("join", from_messages(federation_pb2.JoinRequest, [join]), _join),
        Target("halves", from_bytes([halves, bytes(len(halves))]), _halves),
        Target("start", from_messages(adapter_pb2.AdapterBlob, starts), _start),
        Target("tracker", from_bytes([b"tensorboard=~/runs", b"mlflow=http://[::1]:5000/x"]), _tracker),
        *capacity_targets(folder, PLANNED, SCHEMA),
        *adapter_targets(folder, WARM, SCHEMA),
        Target("enroll", from_messages(federation_pb2.EnrollRequest, [enroll.SerializeToString()]), _enroll),
        Target("push", from_messages(federation_pb2.UpdateHeader, [push]), _push),
        Target("evaluation", from_messages(federation_pb2.ReportEvaluationRequest, [evaluation]), _evaluation),
        Target(
            "report", from_bytes([report, b'{"scores": [{"split": "SPLIT_PERSONAL", "value": 0.5}]}']), _stored_report
        ),
        Target("mixture", from_json([mixture]), _mixture),
        Target("address", from_bytes([b"127.0.0.1:80", b"[::1]:443", b"unix:/tmp/x", b"host.name:1"]), _address),
        *(file_target(f"data-{kind}", f"train.{kind}", folder, seeds) for kind, seeds in TABLES.items()),
        *(
            file_target(f"data-{ending}", f"train.jsonl.{ending}", folder, TABLES["jsonl"], pack)
            for ending, pack in PACKERS.items()
        ),
        *parquet_targets(folder),
        state_target(folder),
        Target("model-config", from_json([{"model_type": "bert", "hidden_size": 32}]), config_reader(folder)),
        Target("settings", from_bytes([b'listen = "127.0.0.1:0"\ngrace = "5s"\n']), settings_reader(folder)),
        Target("stored-round", from_json([json.loads(ROUND.to_json())]), _stored_round),
        Target("stored-history", from_json([history]), _stored_history),
        *certificate_targets(folder),
    ]
