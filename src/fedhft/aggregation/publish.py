"""Publishing: a mean step becomes quantised blobs, and what they dropped waits in the server's residual.

    target = eta * step + residual          step as `method.server` says: see `aggregation.server_step`
    blob   = encode(target), products truncated to publish_rank first (0: not at all)
    residual' = target - decode(blob)       so published + residual is the exact sum, up to float32

All of it on the rows somebody sent: the others keep value, velocity and residual, and are not in the blob. The new
state is the old one with the *decoded* blob applied, by the same function clients use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedhft.adapter import (
    AdapterSchema,
    Float32,
    Float64,
    MaskedDelta,
    MaskedMatrix,
    Part,
    TensorKey,
)
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.server_step import server_step
from fedhft.aggregation.sums import ProductStep, RowStep, Steps
from fedhft.aggregation.versions import ServerState, Tensors, apply_delta, smaller_dense, with_version
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import ServerStep
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.values import largest_value

_FLOAT32_ROUNDING = 2.0**-24


@dataclass(frozen=True)
class FoldReport:
    """Figures of one fold. Norms are Frobenius norms over all scopes.

    published_norm: of what was published. residual_norm: of what waits. dropped_mass: share, in [0, 1], of the squared
    norm of product targets that truncation left in the residual; 0 without products.
    mass: sum_i q_i p_ij per cluster. clients: updates folded.
    """

    published_norm: float
    residual_norm: float
    dropped_mass: float
    mass: tuple[float, ...]
    clients: int


@dataclass(frozen=True, eq=False)
class Published:
    """A new version: one blob per scope that changed, the server's state after it, and figures."""

    blobs: Mapping[str, bytes]
    state: ServerState
    report: FoldReport


@dataclass(eq=False)
class _Scope:
    """One scope being published: targets per key, and the tensors that replace residual and momentum."""

    residual: dict[TensorKey, Float32]
    momentum: dict[TensorKey, Float32]
    squares: dict[TensorKey, Float32]
    outgoing: dict[TensorKey, MaskedMatrix] = field(default_factory=dict)
    targets: dict[TensorKey, RowStep | ProductStep] = field(default_factory=dict)
    energy: float = 0.0
    """Squared norm of product targets."""
    dropped: float = 0.0
    """Squared norm of what truncation left out of them."""


def publish(
    spec: JobSpec, schema: AdapterSchema, previous: ServerState, steps: Steps, mass: Float64, clients: int
) -> Published:
    """Publish version previous.version + 1.

    A scope without a step is untouched: no blob, same tensors, same residual, same momentum.
    Raises FedhftError(NON_FINITE) rather than publish a value that is not finite, and what `encode` raises.
    """
    version = previous.state.version + 1
    state = previous.state
    residuals, momenta, squares = dict(previous.residual), dict(previous.momentum), dict(previous.squares)
    blobs: dict[str, bytes] = {}
    published = energy = dropped = 0.0
    for name in state.scope_names:
        if name not in steps:
            continue
        scope = _Scope(
            dict(previous.residual.get(name, {})),
            dict(previous.momentum.get(name, {})),
            dict(previous.squares.get(name, {})),
        )
        for key, step in steps[name].items():
            if isinstance(step, RowStep):
                _aim_rows(scope, key, step, spec)
            else:
                _aim_product(scope, key.name, step, spec, schema)
        energy, dropped = energy + scope.energy, dropped + scope.dropped
        sent: Mapping[TensorKey, MaskedMatrix] = {}
        if scope.outgoing:
            data = encode(
                MaskedDelta(scope.outgoing),
                schema,
                kind=adapter_pb2.BLOB_KIND_DELTA,
                encoding=spec.wire.down,
                group=spec.wire.group,
                levels=spec.wire.levels,
                scope=name,
                version=version,
            )
            blob = decode(data, schema, kind=adapter_pb2.BLOB_KIND_DELTA)
            sent, blobs[name] = blob.delta.tensors, data
            state = apply_delta(state, blob)
            published += _published_energy(sent)
        _keep_what_was_dropped(scope, sent, exact=spec.wire.down == "fp32")
        residuals[name], momenta[name], squares[name] = scope.residual, scope.momentum, scope.squares
        groups = {"residual": scope.residual, "momentum": scope.momentum, "squares": scope.squares}
        _check_finite(version, name, {"the state": state.scope(name), **groups})
    report = FoldReport(
        published_norm=float(np.sqrt(published)),
        residual_norm=float(np.sqrt(sum(_held_energy(tensors) for tensors in residuals.values()))),
        dropped_mass=dropped / energy if energy > 0.0 else 0.0,
        mass=tuple(mass.tolist()),
        clients=clients,
    )
    held = ServerState(with_version(state, version), _non_empty(residuals), _non_empty(momenta), _non_empty(squares))
    return Published(blobs, held, report)


def _aim_rows(scope: _Scope, key: TensorKey, step: RowStep, spec: JobSpec) -> None:
    rows = slice(None) if step.index is None else step.index
    target = spec.server.eta * server_step(spec, step, key, scope.momentum, scope.squares)
    residual = scope.residual.get(key)
    if residual is not None:
        target = target + residual[rows]
    scope.targets[key] = RowStep(step.rows, step.cols, step.index, target)
    scope.outgoing[key] = MaskedMatrix(step.rows, step.cols, step.index, _sendable(target, spec))


def _aim_product(scope: _Scope, name: str, step: ProductStep, spec: JobSpec, schema: AdapterSchema) -> None:
    slot = schema.slot(name)
    shape = (slot.out_features, slot.in_features)
    sent = np.zeros(slot.out_features) if step.index is not None else np.ones(slot.out_features)
    if step.index is not None:
        sent[step.index] = 1.0
    target = step.value
    if spec.method.server is ServerStep.MOMENTUM:
        velocity = Product.held(scope.momentum, name, *shape)
        velocity = velocity.scaled(1.0 - sent * (1.0 - spec.server.momentum)) + target
        _hold(scope.momentum, name, velocity.compressed(0.0))
        target = velocity.scaled(sent)
    eta = np.full(slot.out_features, spec.server.eta)
    # Rows nobody sent keep their residual, so it is added whole to what remains and only by sent rows to what travels.
    remaining = target.scaled(eta) + Product.held(scope.residual, name, *shape)
    target = remaining if step.index is None else remaining.scaled(sent)
    scope.targets[TensorKey(name, Part.PRODUCT)] = ProductStep(step.index, remaining)
    energy = target.energy()
    scope.energy += energy
    left, right = target.truncated(spec.server.publish_rank or min(shape))
    if left.shape[1] == 0:
        return
    if smaller_dense(*shape, left.shape[1]):
        scope.outgoing[TensorKey(name, Part.PRODUCT)] = MaskedMatrix.of(_sendable(target.value(), spec), step.index)
        return
    scope.dropped += max(0.0, energy - Product(left, right).energy())
    scope.outgoing[TensorKey(name, Part.LEFT)] = MaskedMatrix.of(_sendable(left, spec), step.index)
    scope.outgoing[TensorKey(name, Part.RIGHT)] = MaskedMatrix.of(_sendable(right, spec), None)


def _keep_what_was_dropped(scope: _Scope, sent: Mapping[TensorKey, MaskedMatrix], exact: bool) -> None:
    for key, target in scope.targets.items():
        if isinstance(target, RowStep):
            if exact and key not in scope.residual:
                continue  # float32 drops nothing that a float32 residual could hold next to the value
            rows = slice(None) if target.index is None else target.index
            residual = scope.residual.get(key)
            residual = np.zeros((target.rows, target.cols), np.float32) if residual is None else residual.copy()
            residual[rows] = target.values - sent[key].values
            scope.residual[key] = residual
        else:
            left_over = target.value + _negated(sent, key.name, target.value)
            floor = _FLOAT32_ROUNDING * float(np.sqrt(target.value.energy()))
            _hold(scope.residual, key.name, left_over.compressed(floor))


def _negated(sent: Mapping[TensorKey, MaskedMatrix], name: str, like: Product) -> Product:
    dense, left = sent.get(TensorKey(name, Part.PRODUCT)), sent.get(TensorKey(name, Part.LEFT))
    if dense is not None:
        return Product.of_dense(-dense.dense().astype(np.float64))
    if left is not None:
        right = sent[TensorKey(name, Part.RIGHT)]
        return Product(-left.dense().astype(np.float64), right.dense().astype(np.float64))
    return like.scaled(np.zeros(like.left.shape[0]))


def _hold(tensors: dict[TensorKey, Float32], name: str, product: Product) -> None:
    for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT):
        tensors.pop(TensorKey(name, part), None)
    tensors.update(product.tensors(name))


def _sendable(values: Float64, spec: JobSpec) -> Float32:
    """Values as the encoding can hold them: what is beyond its largest waits in the residual, like all it drops.

    fp32 has no residual, and nothing finite beyond it could be held anywhere: `encode` refuses that.
    """
    if spec.wire.down == "fp32":
        return values.astype(np.float32)
    largest = largest_value(spec.wire.down)
    if not (values.max(initial=0.0) <= largest and values.min(initial=0.0) >= -largest):
        values = np.clip(values, -largest, largest)
    return values.astype(np.float32)


def _check_finite(version: int, scope: str, groups: Mapping[str, Tensors]) -> None:
    """Nothing that is not finite is ever published: every later version would be, too."""
    for group, tensors in groups.items():
        for key, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise FedhftError(
                    ErrorCode.NON_FINITE,
                    f"version {version} is not published: {group} of {key.part}:{key.name} in scope {scope} would hold "
                    "values that are not finite; lower limits.update_norm or server.eta",
                )


def _published_energy(sent: Mapping[TensorKey, MaskedMatrix]) -> float:
    energy = 0.0
    for key, matrix in sent.items():
        if key.part is Part.LEFT:
            right = sent[TensorKey(key.name, Part.RIGHT)]
            energy += Product(matrix.dense().astype(np.float64), right.dense().astype(np.float64)).energy()
        elif key.part is not Part.RIGHT:
            energy += float(np.square(matrix.values, dtype=np.float64).sum())
    return energy


def _held_energy(tensors: Tensors) -> float:
    return _published_energy({key: MaskedMatrix.full(matrix) for key, matrix in tensors.items()})


def _non_empty(scopes: Mapping[str, Tensors]) -> dict[str, Tensors]:
    return {scope: tensors for scope, tensors in scopes.items() if tensors}
