"""Small federations for the tests of the fold, and the means they must give, computed the slow way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fedhft.adapter import (
    SHARED,
    AdapterSchema,
    Float64,
    MaskedDelta,
    MaskedMatrix,
    Parameter,
    Part,
    Slot,
    TensorKey,
    cluster_scope,
)
from fedhft.aggregation.fold import (
    ClientUpdate,
    FoldRules,
    Partial,
    ProductStep,
    RowStep,
    Steps,
    accumulate,
    finish,
    merge,
)
from fedhft.job import JobSpec, parse_job
from fedhft.plan import sent_parts

SCHEMA = AdapterSchema(
    base_digest="00" * 32,
    tokenizer_digest="11" * 32,
    architecture="tiny",
    labels=("no", "yes", "maybe"),
    layers=2,
    slots=(Slot("layer.0.query", 0, 12, 10, 2), Slot("layer.1.value", 1, 9, 14, 2)),
    head=(Parameter("head.weight", (3, 12)), Parameter("head.bias", (3,))),
)
WEIGHTS = replace(SCHEMA, slots=(), weights=(Parameter("dense.weight", (6, 5)), Parameter("dense.bias", (6,))))


def job(
    preset: str = "fedhft", clusters: int = 1, *, method: Mapping[str, Any] | None = None, **sections: Any
) -> JobSpec:
    """A job over the tiny schema; fp32 both ways unless `wire` says otherwise."""
    sections.setdefault("wire", {"down": "fp32"})
    return parse_job(
        {
            "name": "tiny",
            "model": {"name": "tiny"},
            "task": {"labels": ["no", "yes", "maybe"]},
            "adapter": {"rank": 2, "alpha": 6.0},
            "method": {"preset": preset, "clusters": clusters, **(method or {})},
            **sections,
        }
    )


def sent_keys(spec: JobSpec, schema: AdapterSchema) -> list[TensorKey]:
    """What a client with full depth sends."""
    return [key for key in schema.keys if key.part in sent_parts(spec.method)]


def update(
    spec: JobSpec,
    schema: AdapterSchema,
    client: str,
    seed: int,
    *,
    samples: float = 1.0,
    memberships: tuple[float, ...] = (1.0,),
    density: float = 1.0,
    depth: int = 2,
    rank: int = 0,
    scale: float = 1.0,
) -> ClientUpdate:
    """A client's random update: rows of A and B masked at random, everything outside its depth or rank left out."""
    rng = np.random.default_rng(seed)
    tensors: dict[TensorKey, MaskedMatrix] = {}
    for key in sent_keys(spec, schema):
        rows, cols = schema.shape(key)
        if rank and key.part in (Part.A, Part.B):
            cols = min(rank, cols)
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        chosen = np.sort(rng.permutation(rows)[: max(1, round(density * rows))]).astype(np.int32)
        if key.part in (Part.A, Part.B) and schema.slot(key.name).layer < schema.layers - depth:
            continue
        masked = density < 1.0 and key.part in (Part.A, Part.B)
        tensors[key] = MaskedMatrix.of(values, chosen if masked else None)
    return ClientUpdate(client, samples, memberships, MaskedDelta(tensors), scale)


@dataclass(frozen=True)
class Federation:
    """A job and the updates of one round, sorted."""

    spec: JobSpec
    schema: AdapterSchema
    clusters: int
    updates: tuple[ClientUpdate, ...]


@st.composite
def federations(
    draw: st.DrawFn,
    preset: str = "fedhft",
    clusters: Sequence[int] = (1, 2, 3),
    densities: Sequence[float] = (1.0, 0.5, 0.2),
    depths: Sequence[int] = (1, 2),
    most: int = 20,
    tau: Sequence[float] = (0.0,),
    method: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Federation:
    """Random federations: samples may be 0, memberships need not sum to 1 and may be 0, masks and depths differ."""
    count = draw(st.sampled_from(list(clusters)))
    schema = WEIGHTS if preset == "full" else SCHEMA
    spec = job(preset, count, method=method, mask={"tau": draw(st.sampled_from(list(tau)))}, **sections)
    clients = draw(st.integers(1, most))
    weight = st.sampled_from([0.0, 0.125, 0.3, 0.7, 1.0])
    updates = tuple(
        update(
            spec,
            schema,
            f"client-{index:03d}",
            draw(st.integers(0, 2**32)),
            samples=float(draw(st.integers(0, 40))),
            memberships=tuple(draw(st.tuples(*[weight] * count))) if count > 1 else (1.0,),
            density=draw(st.sampled_from(list(densities))),
            depth=draw(st.sampled_from(list(depths))),
        )
        for index in range(clients)
    )
    return Federation(spec, schema, count, updates)


def steps_of(federation: Federation, groups: Iterable[Sequence[ClientUpdate]] | None = None) -> Steps:
    """Means by accumulate, merge and finish, over the given groups of clients (default: one group)."""
    rules = FoldRules.of(federation.spec, federation.schema, federation.clusters, 1)
    total: Partial | None = None
    for group in groups if groups is not None else [federation.updates]:
        partial = Partial.empty(rules)
        for one in group:
            partial = accumulate(partial, one, rules)
        total = partial if total is None else merge(total, partial)
    assert total is not None
    return finish(total, rules)


def dense(step: RowStep | ProductStep) -> Float64:
    """A step as a dense matrix, zero where nobody sent."""
    if isinstance(step, ProductStep):
        return step.value.value()
    out = np.zeros((step.rows, step.cols))
    out[slice(None) if step.index is None else step.index] = step.values
    return out


def slow_means(federation: Federation) -> dict[str, dict[TensorKey, Float64]]:
    """The equations of docs/methods.md, row by row. A row nobody sent is NaN; products stand under PRODUCT."""
    spec, schema = federation.spec, federation.schema
    means: dict[str, dict[TensorKey, Float64]] = {}
    products = spec.method.combine == "products"
    for key in sent_keys(spec, schema):
        if products and key.part is Part.A:
            continue
        shared = spec.method.share_a and key.part is Part.A
        for cluster in range(1 if shared else federation.clusters):
            scope = SHARED if shared else cluster_scope(cluster)
            target = TensorKey(key.name, Part.PRODUCT) if products and key.part is Part.B else key
            mean = _slow_mean(federation, key, None if shared else cluster)
            if not np.isnan(mean).all():
                means.setdefault(scope, {})[target] = mean
    return means


def _slow_mean(federation: Federation, key: TensorKey, cluster: int | None) -> Float64:
    held = [one for one in federation.updates if key in one.delta.tensors]
    weights = [one.samples * (1.0 if cluster is None else one.memberships[cluster]) for one in held]
    rows = federation.schema.shape(key)[0]
    values = [_sent_value(federation, one, key) for one in held]
    mean = np.full((rows, values[0].shape[1] if values else 1), np.nan)
    for row in range(rows):
        sent = [index for index, one in enumerate(held) if row in one.delta.tensors[key].kept_rows]
        mass = sum(weights[index] for index in sent)
        if mass > 0:
            numerator = sum(weights[index] * values[index][row] for index in sent)
            mean[row] = numerator / max(mass, federation.spec.mask.tau * sum(weights))
    return mean


def _sent_value(federation: Federation, one: ClientUpdate, key: TensorKey) -> Float64:
    value = one.delta.tensors[key].dense().astype(np.float64)
    if federation.spec.method.combine != "products" or key.part is not Part.B:
        return value
    spec, schema = federation.spec, federation.schema
    key_a = TensorKey(key.name, Part.A)
    a = schema.start_of(spec.seed, key_a, 1).astype(np.float64)
    if key_a in one.delta.tensors:
        a = a + one.delta.tensors[key_a].dense()
    return spec.adapter.alpha / spec.adapter.rank * value @ a.T


def assert_close(actual: Float64, expected: Float64, tolerance: float = 1e-9) -> None:
    """Equal up to rounding, with the scale of `expected`."""
    scale = float(np.abs(expected).max()) if expected.size else 0.0
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-30))
