"""The clients of `make bench-load` speak the protocol of the aggregator they measure."""

from __future__ import annotations

import pytest

from benchmarks.load import measure
from benchmarks.load_clients import Shape


@pytest.mark.parametrize("in_directory", [False, True], ids=["blobs in Redis", "blobs in a directory"])
def test_light_clients_take_a_job_to_its_end(in_directory: bool) -> None:
    run = measure(2, 2, Shape(layers=1, width=16, rank=2), in_directory)
    assert run.blobs == ("directory" if in_directory else "redis")
    assert run.arrays == 6  # A and B of query and value, and two of the head
    assert run.update_bytes > 3 * 162  # noise in float32 hardly gets shorter
    assert run.seconds_per_round > 0  # the job has a history
    assert run.push_p50 > 0
    assert run.pull_p50 > 0
