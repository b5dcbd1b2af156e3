"""Targets of `benchmarks.fuzz` that are files and certificates: data, state, settings, models, an authority's index."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from safetensors.numpy import save

from benchmarks.fuzz_inputs import Target, as_text, from_bytes, from_json
from benchmarks.fuzz_mutations import mutated, mutated_json
from fedhft.adapter import AdapterSchema
from fedhft.certs.index import read_index
from fedhft.certs.x509 import new_authority, new_certificate
from fedhft.datasets.client_data import load_rows
from fedhft.documents import read_toml
from fedhft.errors import ErrorCode
from fedhft.export.adapter_values import read_adapter, starting_blobs, starting_tensors
from fedhft.export.description import FILE as DESCRIPTION_FILE
from fedhft.export.peft_directory import CONFIG_FILE, WEIGHTS_FILE
from fedhft.identity import Identity, Role, parse_identity
from fedhft.job import JobSpec
from fedhft.job_task import TaskSpec
from fedhft.rounds.starting import checked_start
from fedhft.rpc.peer import parse_certificate
from fedhft.training.digest import read_config
from fedhft.training.state import STATE_FILE, StateFolder

TASK = TaskSpec(labels=("a", "b"))


def config_reader(folder: Path) -> Callable[[bytes], None]:
    """Reads config.json of a model."""
    path = folder / "config.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read_config(folder)

    return run


def settings_reader(folder: Path) -> Callable[[bytes], None]:
    """Reads a settings file."""
    path = folder / "settings.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read_toml(path, "settings", ErrorCode.INVALID_ARGUMENT)

    return run


def file_target(
    name: str, file: str, folder: Path, seeds: Sequence[bytes], pack: Callable[[bytes], bytes] | None = None
) -> Target:
    """Reads a client's rows. pack: what makes an archive of them."""
    path = folder / file

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load_rows(path, TASK)

    inner = from_bytes(seeds)
    archives = [pack(seed) for seed in seeds] if pack else []

    def make(rng: random.Random) -> bytes:
        if pack:  # half damaged archives, half archives of damaged text
            return pack(inner(rng)) if rng.random() < 0.5 else mutated(rng, rng.choice(archives), archives)
        return inner(rng)

    return Target(name, make, run)


def gzipped(data: bytes) -> bytes:
    """A gzip archive, the same for the same data."""
    return gzip.compress(data, 1, mtime=0)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzipped, "zst": zstandard.ZstdCompressor().compress}


TABLES = {
    "jsonl": [
        b'{"text": "fine", "label": 1}\n{"text": "bad \\u00fc", "label": "b"}\n' * 4,
        b'\xef\xbb\xbf{"text": "x"}',
    ],
    "tsv": [b'text\tlabel\n"a\t""b"""\t1\nplain\tb\n' * 4, b"text\tlabel\r\nx\t0\r\n"],
    "csv": [b'text,label\n"a, ""b""",1\nplain,b\n' * 4, b"text,label\r\nx,0\r\n"],
}


def state_target(folder: Path) -> Target:
    """State files of format 1, which have no checksum to stop at."""
    home = folder / "state"
    keeper = StateFolder(home, "fuzz", "a", "s")
    path = home / "fuzz" / STATE_FILE
    meta = {
        "round": 1, "version": 1, "clusters": 2, "scopes": ["shared"], "held": {"shared": 1}, "signature": [1.0, 0.0],
        "data_digest": "d",
    }  # fmt: skip
    arrays = {
        "carried/b/layer.0.query": np.ones((4, 2), np.float32), "score/b/x": np.ones(4, np.float32),
        "sent/b/x": np.ones(4, np.int64), "state/shared/a/layer.0.query": np.ones((4, 2), np.float32),
    }  # fmt: skip

    def packed(text: str) -> bytes:
        return bytes(save(arrays, {"format": "1", "client": "a", "spec": "s", "meta": text}))

    seeds = [packed(json.dumps(meta))]

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutated(rng, seeds[0], seeds)
        return packed(mutated_json(rng, meta))

    def run(data: bytes) -> None:
        path.write_bytes(data)
        keeper.read()

    return Target("state", make, run)


def adapter_targets(folder: Path, spec: JobSpec, schema: AdapterSchema) -> list[Target]:
    """The files of a PEFT directory that a job is to begin with; each is damaged while the others are sound."""
    home = folder / "adapter"
    home.mkdir()
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for slot in schema.slots:
        name = f"base_model.model.{slot.name}"
        tensors[f"{name}.lora_A.weight"] = np.ones((slot.rank, slot.in_features), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((slot.out_features, slot.rank), np.float16)
    for parameter in schema.head:
        tensors[f"base_model.model.{parameter.name}"] = np.ones(parameter.shape, np.float32)
    config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {schema.slots[0].name: 4}, "bias": "none",
        "use_rslora": True, "use_dora": False,
    }  # fmt: skip
    description = {
        "job": "fuzz", "version": 1, "rounds": 1, "method": "fedit", "seed": 1, "name": "cluster-0", "whole": False,
        "weights": [1.0], "clients": 2, "samples": 20, "num_labels": 2, "max_length": 16, "dtype": "float32",
        "base": {"name": "m", "digest": "0" * 64, "tokenizer_digest": "1" * 64, "architecture": "fuzz"},
        "task": {"labels": ["a", "b"]}, "scores": [{"rows": "shared", "moment": "before", "mean": 0.5}],
    }  # fmt: skip
    sound = {
        WEIGHTS_FILE: bytes(save(tensors, {"format": "pt"})), CONFIG_FILE: json.dumps(config).encode(),
        DESCRIPTION_FILE: json.dumps(description).encode(),
    }  # fmt: skip

    def reader(file: str) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            for name, content in sound.items():
                (home / name).write_bytes(data if name == file else content)
            values = read_adapter(home)
            begun, _ = starting_tensors(spec, schema, values, {})
            checked_start(spec, schema.to_json(), starting_blobs(spec, schema, begun))

        return run

    return [
        Target("adapter-weights", from_bytes([sound[WEIGHTS_FILE]]), reader(WEIGHTS_FILE)),
        Target("adapter-config", from_json([config]), reader(CONFIG_FILE)),
        Target("adapter-description", from_json([description]), reader(DESCRIPTION_FILE)),
    ]


def parquet_targets(folder: Path) -> list[Target]:
    """Parquet files, where pyarrow is installed."""
    if importlib.util.find_spec("pyarrow") is None:
        return []
    import pyarrow
    import pyarrow.parquet

    path = folder / "seed.parquet"
    columns = {"text": ["fine", "ü", "x" * 100] * 5, "label": [0, 1, 0] * 5}
    seeds = []
    for compression in ("none", "snappy"):
        pyarrow.parquet.write_table(pyarrow.table(columns), path, compression=compression)
        seeds.append(path.read_bytes())
    return [file_target("data-parquet", "train.parquet", folder, seeds)]


def certificate_targets(folder: Path) -> list[Target]:
    """What a peer shows, and the index of an authority."""
    now = datetime.now(UTC)
    authority = new_authority("example.org", now, 30)
    identity = Identity("example.org", Role.AGENT, "alice")
    pem = new_certificate(authority, identity, (), now, 9).certificate_pem
    path = folder / "index"
    entry = {
        "serial": "1f", "identity": identity.uri, "not_after": now.isoformat(), "hosts": ["localhost"], "revoked": None,
        "reason": "",
    }  # fmt: skip

    def index(data: bytes) -> None:
        path.write_bytes(data)
        read_index(path)

    return [
        Target("certificate", from_bytes([pem, authority.certificate_pem]), lambda data: _run(parse_certificate, data)),
        Target("identity", from_bytes([identity.uri.encode()]), lambda data: _run(parse_identity, as_text(data))),
        Target("certificate-index", from_json([entry]), index),
    ]


def _run(read: Callable[[Any], object], data: Any) -> None:
    read(data)
