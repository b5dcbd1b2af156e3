"""Bytes against the limit: what the codec promises about overhead."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedhft.adapter import MaskedDelta, MaskedMatrix, Part
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import encode
from fedhft.wire.entropy import entropy_bits
from fedhft.wire.limit import choices_bits, limit_of
from tests.unit.wire_examples import delta_of, schema_of

UPDATE = int(adapter_pb2.BLOB_KIND_UPDATE)
ROOT = Path(__file__).resolve().parent.parent.parent
# Wide and deep enough that a twentieth of the rows still makes more than 16 KiB.
SCHEMA = schema_of(12, 768, 16)


@pytest.mark.parametrize("density", [0.05, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["normal", "unequal rows", "uniform"])
@pytest.mark.parametrize(("group", "levels"), [(64, 127), (256, 127), (64, 7)])
def test_an_int8_message_from_16_kib_up_is_within_three_percent_of_the_limit(
    density: float, kind: str, group: int, levels: int
) -> None:
    delta = delta_of(SCHEMA, density if levels == 127 else min(1.0, 2 * density), 17, kind)
    size = len(encode(delta, SCHEMA, kind=UPDATE, encoding="int8", group=group, levels=levels))
    limit = limit_of(delta, SCHEMA, encoding="int8", group=group, levels=levels)
    assert size >= 16 * 1024
    assert limit.overhead(size) <= 0.03


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_messages_of_a_small_model_are_within_three_percent_too(density: float) -> None:
    schema = schema_of(6, 384, 8)
    delta = delta_of(schema, density, 17, "normal")
    size = len(encode(delta, schema, kind=UPDATE, encoding="int8"))
    assert limit_of(delta, schema, encoding="int8").overhead(size) <= 0.03


def test_the_limit_is_the_formula() -> None:
    values = np.zeros((768, 16), np.float32)
    values[:384] = 127.0
    index = np.arange(0, 768, 2, dtype=np.int32)
    key = next(key for key in SCHEMA.keys if key.part is Part.B)
    limit = limit_of(MaskedDelta({key: MaskedMatrix.of(values, index)}), SCHEMA, encoding="int8")
    # Half of the codes are 127 and half 0, and so are the scales of their groups: one bit each.
    assert limit.rows == pytest.approx(math.log2(math.comb(768, 384)))
    assert limit.codes == pytest.approx(384 * 16)
    assert limit.scales == pytest.approx(384 * 16 / 64)
    assert limit.bytes == pytest.approx((limit.rows + limit.codes + limit.scales) / 8)
    assert limit.overhead(math.ceil(1.1 * limit.bytes)) == pytest.approx(0.1, abs=1e-3)


def test_the_parts_of_the_limit() -> None:
    assert choices_bits(10, 3) == pytest.approx(math.log2(120))
    assert choices_bits(10, 10) == pytest.approx(0)
    assert entropy_bits(bytes(range(256)) * 4) == pytest.approx(8 * 1024)
    assert entropy_bits(b"") == 0


def test_an_empty_delta_has_no_limit_and_no_overhead() -> None:
    limit = limit_of(MaskedDelta({}), SCHEMA, encoding="int8")
    assert limit.bytes == 0
    assert limit.overhead(60) == 0


def test_the_benchmark_reports_that_the_target_is_met() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.wire", "--format", "json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["target_met"] is True
    judged = [row for row in result["overhead"] if row["met"] is not None]
    assert {row["density"] for row in judged} == {0.05, 0.1, 0.25, 0.5, 1.0}
    assert all(row["payload_bytes"] >= 16384 and row["overhead"] <= 0.03 for row in judged)
    assert {row["encoding"] for row in result["rates"]} == {"fp32", "fp16", "bf16", "int8"}
    assert all(row["encode_mb_per_s"] > 0 and row["decode_mb_per_s"] > 0 for row in result["throughput"])
