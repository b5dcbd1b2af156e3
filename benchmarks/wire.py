"""How close the codec comes to the limit, what each bit buys, and how fast it is: `python -m benchmarks.wire`.

Three tables, for synthetic deltas with rows of unequal size (log-normal, as in trained adapters) or for a PEFT adapter
of your own (--adapter). Exit code 1 when an int8 message of 16 KiB or more is over 3 percent above its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedhft.adapter import AdapterSchema, Float32, MaskedDelta, MaskedMatrix, Parameter, Part, Slot
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.limit import limit_of
from fedhft.wire.values import MOST_LEVELS

UPDATE = int(adapter_pb2.BLOB_KIND_UPDATE)
DENSITIES = (0.05, 0.1, 0.25, 0.5, 1.0)
GROUPS = (16, 32, 64, 128, 256, 512)
LEVELS = (63, 31, 15, 7, 3)
TARGET_OVERHEAD = 0.03
TARGET_FROM_BYTES = 16 * 1024


@dataclass(frozen=True)
class Shape:
    """A model's adapters: query and value of every layer."""

    name: str
    layers: int
    width: int
    rank: int


SHAPES = (
    Shape("6 x 384, r 8", 6, 384, 8),
    Shape("12 x 768, r 8", 12, 768, 8),
    Shape("12 x 768, r 16", 12, 768, 16),
)


@dataclass(frozen=True)
class Overhead:
    """One row of the first table; bytes, and fractions of the limit. `met` is None below 16 KiB."""

    shape: str
    density: float
    values: int
    payload_bytes: int
    limit_bytes: float
    rows_share: float
    scales_share: float
    overhead: float
    met: bool | None


@dataclass(frozen=True)
class Rate:
    """One row of the second table. relative_error: Frobenius norm of the error over that of the values.

    bits_at_equal_error: bits per value if steps were widened or narrowed to the error of int8 in groups of 64: with an
    entropy stage behind it, half the error costs one bit per value. None for exact values.
    """

    encoding: str
    group: int | None
    levels: int | None
    bits_per_value: float
    relative_error: float
    bits_at_equal_error: float | None


@dataclass(frozen=True)
class Speed:
    """One row of the third table. Rates count the message's values as fp32 bytes."""

    shape: str
    density: float
    encoding: str
    fp32_bytes: int
    payload_bytes: int
    encode_ms: float
    decode_ms: float
    encode_mb_per_s: float
    decode_mb_per_s: float


def schema_of(shape: Shape) -> AdapterSchema:
    """Schema of a two-label classifier with these adapters."""
    slots = tuple(
        Slot(f"encoder.layer.{layer}.attention.self.{target}", layer, shape.width, shape.width, shape.rank)
        for layer in range(shape.layers)
        for target in ("query", "value")
    )
    head = (Parameter("classifier.weight", (2, shape.width)), Parameter("classifier.bias", (2,)))
    return AdapterSchema("base", "tokenizer", shape.name, ("no", "yes"), shape.layers, slots, head)


def delta_of(schema: AdapterSchema, density: float, seed: int) -> MaskedDelta:
    """A delta of A, B and head: normal values, rows of log-normal size, a random `density` of the rows of A and B."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for key in schema.keys:
        if key.part not in (Part.A, Part.B, Part.HEAD):
            continue
        rows, cols = schema.shape(key)
        size = 1e-3 * np.exp(0.5 * rng.normal(size=(rows, 1)))
        values: Float32 = (size * rng.normal(size=(rows, cols))).astype(np.float32)
        index = None
        if density < 1 and key.part is not Part.HEAD:
            kept = rng.choice(rows, int(np.ceil(density * rows)), replace=False)
            index = np.sort(kept).astype(np.int32)
        tensors[key] = MaskedMatrix.of(values, index)
    return MaskedDelta(tensors)


def adapter_of(path: Path) -> tuple[AdapterSchema, MaskedDelta]:
    """Every tensor of a safetensors file as one full delta."""
    from safetensors.numpy import load_file

    arrays = {name: array.astype(np.float32) for name, array in sorted(load_file(path).items())}
    head = tuple(Parameter(name, array.shape) for name, array in arrays.items())
    schema = AdapterSchema("base", "tokenizer", path.name, (), 0, (), head)
    tensors = {
        key: MaskedMatrix.full(arrays[key.name].reshape(parameter.matrix_shape))
        for key, parameter in zip(schema.keys, head, strict=True)
    }
    return schema, MaskedDelta(tensors)


def overheads(seed: int) -> list[Overhead]:
    """Int8 messages of every shape and density against their limit."""
    schemas = [(shape.name, schema_of(shape)) for shape in SHAPES]
    return [
        overhead_of(name, density, schema, delta_of(schema, density, seed))
        for name, schema in schemas
        for density in DENSITIES
    ]


def overhead_of(name: str, density: float, schema: AdapterSchema, delta: MaskedDelta) -> Overhead:
    """One int8 message against its limit."""
    payload = len(encode(delta, schema, kind=UPDATE, encoding="int8"))
    limit = limit_of(delta, schema, encoding="int8")
    overhead = limit.overhead(payload)
    return Overhead(
        shape=name,
        density=density,
        values=delta.values,
        payload_bytes=payload,
        limit_bytes=limit.bytes,
        rows_share=limit.rows / 8 / limit.bytes,
        scales_share=limit.scales / 8 / limit.bytes,
        overhead=overhead,
        met=overhead <= TARGET_OVERHEAD if payload >= TARGET_FROM_BYTES else None,
    )


def rates(schema: AdapterSchema, delta: MaskedDelta) -> list[Rate]:
    """Bits per value and error of every encoding."""
    settings: list[tuple[str, int | None, int | None]] = [("fp32", None, None), ("fp16", None, None)]
    settings += [("bf16", None, None), *(("int8", group, MOST_LEVELS) for group in GROUPS)]
    settings += [("int8", 64, levels) for levels in LEVELS]
    measured = {}
    for setting in settings:
        encoding, group, levels = setting
        data = encode(
            delta, schema, kind=UPDATE, encoding=encoding, group=group or GROUPS[0], levels=levels or MOST_LEVELS
        )
        measured[setting] = 8 * len(data) / delta.values, error_of(delta, data, schema)
    reference = measured["int8", 64, MOST_LEVELS][1]
    return [
        Rate(*setting, bits, error, float(bits + np.log2(error / reference)) if error else None)
        for setting, (bits, error) in measured.items()
    ]


def error_of(delta: MaskedDelta, data: bytes, schema: AdapterSchema) -> float:
    """Frobenius norm of what coding changed, relative to the delta's."""
    received = decode(data, schema, kind=UPDATE).delta.tensors
    lost = {key: MaskedMatrix.full(matrix.values - received[key].values) for key, matrix in delta}
    return MaskedDelta(lost).norm() / delta.norm()


def speeds(name: str, density: float, schema: AdapterSchema, delta: MaskedDelta) -> list[Speed]:
    """Seconds to encode and to decode one message, best of several."""
    found = []
    for encoding in ("fp32", "fp16", "bf16", "int8"):
        data = encode(delta, schema, kind=UPDATE, encoding=encoding)
        encoding_s = _best(partial(encode, delta, schema, kind=UPDATE, encoding=encoding))
        decoding_s = _best(partial(decode, data, schema, kind=UPDATE))
        size = 4 * delta.values
        found.append(
            Speed(
                shape=name,
                density=density,
                encoding=encoding,
                fp32_bytes=size,
                payload_bytes=len(data),
                encode_ms=1e3 * encoding_s,
                decode_ms=1e3 * decoding_s,
                encode_mb_per_s=size / encoding_s / 1e6,
                decode_mb_per_s=size / decoding_s / 1e6,
            )
        )
    return found


def _best(action: Callable[[], object], times: int = 20) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken)


def show(console: Console, first: Sequence[Overhead], second: Sequence[Rate], third: Sequence[Speed]) -> None:
    """Print the three tables."""
    table = Table(title="int8 (groups of 64) against log2 C(n,k) + k H(codes) + scales; target <= 3 % from 16 KiB")
    for column in ("adapters", "density", "values", "payload, bytes", "limit, bytes", "rows", "scales", "overhead", ""):
        table.add_column(column, justify="left" if column == "adapters" else "right")
    for row in first:
        verdict = {True: "met", False: "MISSED", None: "< 16 KiB"}[row.met]
        table.add_row(
            row.shape, f"{row.density:g}", f"{row.values}", f"{row.payload_bytes}", f"{row.limit_bytes:.0f}",
            f"{row.rows_share:.1%}", f"{row.scales_share:.1%}", f"{row.overhead:+.2%}", verdict,
        )  # fmt: skip
    console.print(table)
    table = Table(title="Bits per value, scales and masks included, and at the error of int8 in groups of 64")
    for column in ("encoding", "group", "levels", "bits per value", "relative error", "bits at equal error"):
        table.add_column(column, justify="left" if column == "encoding" else "right")
    for rate in second:
        table.add_row(
            rate.encoding, f"{rate.group or '-'}", f"{rate.levels or '-'}", f"{rate.bits_per_value:.3f}",
            f"{rate.relative_error:.2e}",
            "-" if rate.bits_at_equal_error is None else f"{rate.bits_at_equal_error:.3f}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="Throughput of one thread, counting the message's values as fp32 bytes")
    for column in ("adapters", "density", "encoding", "fp32, bytes", "payload, bytes", "encode", "decode"):
        table.add_column(column, justify="left" if column in ("adapters", "encoding") else "right")
    for speed in third:
        table.add_row(
            speed.shape, f"{speed.density:g}", speed.encoding, f"{speed.fp32_bytes}", f"{speed.payload_bytes}",
            f"{speed.encode_ms:.2f} ms, {speed.encode_mb_per_s:.0f} MB/s",
            f"{speed.decode_ms:.2f} ms, {speed.decode_mb_per_s:.0f} MB/s",
        )  # fmt: skip
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic deltas")
    parser.add_argument("--adapter", type=Path, help="a PEFT adapter_model.safetensors to measure instead")
    options = parser.parse_args(arguments)
    if options.adapter:
        schema, delta = adapter_of(options.adapter)
        name = options.adapter.name
        first = [overhead_of(name, 1.0, schema, delta)]
        third = speeds(name, 1.0, schema, delta)
    else:
        schema = schema_of(SHAPES[0])
        delta = delta_of(schema, 1.0, options.seed)
        first = overheads(options.seed)
        third = [
            *speeds(SHAPES[0].name, 1.0, schema, delta),
            *speeds(SHAPES[0].name, 0.25, schema, delta_of(schema, 0.25, options.seed)),
        ]
    second = rates(schema, delta)
    missed = any(row.met is False for row in first)
    if options.format == "json":
        result = {
            "overhead": [asdict(row) for row in first],
            "rates": [asdict(row) for row in second],
            "throughput": [asdict(row) for row in third],
            "target_met": not missed,
        }
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(Console(width=120), first, second, third)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
