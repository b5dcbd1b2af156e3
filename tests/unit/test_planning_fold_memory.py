"""The memory budget of the fold: an upper bound that is not far above what a fold takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter
from fedhft.aggregation.fold import ClientUpdate, fold
from fedhft.aggregation.regrouping import copies, regroup
from fedhft.aggregation.versions import initial_state
from fedhft.planning.fold_memory import fold_bytes, most_clusters
from fedhft.planning.tiers import plans
from fedhft.rounds.acceptance import expected_keys
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from tests.light import light_job, light_schema

WIDE = light_schema(layers=2, width=512, rank=16)
WHOLE = AdapterSchema(**{**WIDE.__dict__, "slots": (), "weights": (Parameter("w", (600, 600)),)})


@pytest.mark.parametrize(
    ("changes", "schema", "clients"),
    [
        ({"method": {"clusters": 3}}, WIDE, 40),
        ({"method": {"clusters": 3, "share_a": False, "server": "momentum"}, "server": {"momentum": 0.9}}, WIDE, 40),
        ({"method": {"clusters": 3, "share_a": False, "server": "adam"}, "server": {"momentum": 0.9}}, WIDE, 40),
        ({"method": {"preset": "fedhft-paper", "clusters": 2}}, WIDE, 40),
        ({"method": "full"}, WHOLE, 40),
        ({"method": {"clusters": 3, "combine": "trimmed-mean"}}, WIDE, 350),  # more than one pass holds
        ({"method": {"preset": "full", "combine": "trimmed-mean"}}, WHOLE, 40),
    ],
)
def test_a_fold_stays_within_its_budget_and_the_budget_is_not_absurd(
    changes: Any, schema: AdapterSchema, clients: int
) -> None:
    changes = {"adapter": {"rank": 16}, "wire": {"down": "int8"}, **changes}
    spec = light_job("j", **changes)
    scopes = most_clusters(spec)
    plan = plans(spec, schema, {"a": "standard"})["a"]

    class Updates:
        """Decoded one at a time, as in a coordinator, whenever they are read."""

        def __init__(self, clients: int) -> None:
            self.clients = clients

        def __len__(self) -> int:
            return self.clients

        def __iter__(self) -> Iterator[ClientUpdate]:
            rng = np.random.default_rng(1)
            for client in range(self.clients):
                tensors = {
                    key: MaskedMatrix.full(rng.standard_normal(schema.shape(key), np.float32))
                    for key in expected_keys(spec, schema, plan)
                }
                data = encode(MaskedDelta(tensors), schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32")
                delta = decode(data, schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
                yield ClientUpdate(f"c{client:03}", 10.0, (1.0 / scopes,) * scopes, delta)

    state = regroup(initial_state(spec, 1), copies(scopes))
    state = fold(spec, schema, state, Updates(20)).state  # so that there is a state to hold and a residual
    tracemalloc.start()
    try:
        published = fold(spec, schema, state, Updates(clients))
        for scope, tensors in published.state.state.scopes.items():
            delta = MaskedDelta({key: MaskedMatrix.full(value) for key, value in tensors.items()})
            encode(delta, schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT, encoding="fp32", scope=scope)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = sum(tensor.nbytes for scope in state.state.scopes.values() for tensor in scope.values())
    assert peak + held <= fold_bytes(spec, schema)
    assert fold_bytes(spec, schema) < 8 * (peak + held)


def test_a_method_that_shares_nothing_folds_nothing() -> None:
    assert fold_bytes(light_job("j", method="local"), WIDE) == 0
