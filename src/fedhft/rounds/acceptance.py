"""Whether an update may be accepted: everything that can be said from the job, the plan and the tensors alone.

Who sent it, when, and whether it was sent before is the store's question (one atomic script); this module asks whether
what was sent is what the plan allows.
"""

from __future__ import annotations

from fedhft.adapter import AdapterSchema, MaskedDelta, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.plan import AdapterPlan

_SLACK_BYTES = 4096
"""Headers, masks of tiny matrices and zstd frames; an update of no rows still has these."""


def expected_keys(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> tuple[TensorKey, ...]:
    """Every tensor an update under this plan may carry, in wire order."""
    if spec.method.combine is Combine.NONE:
        return ()
    parts = (Part.A, Part.B, Part.HEAD) if spec.method.uses_adapters else (Part.HEAD, Part.WEIGHT)
    return tuple(key for key in schema.keys if key.part in parts and plan.trains(key, schema))


def largest_values(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> int:
    """Most float values an update under this plan may carry."""
    return sum(plan.rows_allowed(key, schema) * schema.shape(key)[1] for key in expected_keys(spec, schema, plan))


def largest_update(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> int:
    """Most bytes an update under this plan may have: limits.update_bytes, else twice its values in fp32."""
    if spec.limits.update_bytes:
        return spec.limits.update_bytes
    return 2 * 4 * largest_values(spec, schema, plan) + _SLACK_BYTES


def check_update(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan, delta: MaskedDelta) -> None:
    """Raises FedhftError: OUTSIDE_PLAN, WRONG_SHAPE, NON_FINITE, NORM_TOO_LARGE, MALFORMED_UPDATE (nothing in it)."""
    expected = set(expected_keys(spec, schema, plan))
    if not delta.tensors:
        raise FedhftError(ErrorCode.MALFORMED_UPDATE, "the update carries no tensors; send at least the task head")
    for key, matrix in delta:
        if key not in expected:
            raise FedhftError(
                ErrorCode.OUTSIDE_PLAN,
                f"tensor {key.part}:{key.name} is not in this client's plan (depth {plan.depth}, train_a = "
                f"{plan.train_a}, train_b = {plan.train_b}); send only what the task's plan names",
            )
        rows, cols = schema.shape(key)
        if (matrix.rows, matrix.cols) != (rows, cols):
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"tensor {key.part}:{key.name} is {matrix.rows} x {matrix.cols}, the job has {rows} x {cols}; "
                "build the adapter from the job's schema",
            )
        allowed = plan.rows_allowed(key, schema)
        if matrix.kept > allowed:
            raise FedhftError(
                ErrorCode.OUTSIDE_PLAN,
                f"tensor {key.part}:{key.name} carries {matrix.kept} rows, density {plan.density:g} allows {allowed}; "
                "choose fewer rows",
            )
    if not delta.finite():
        raise FedhftError(
            ErrorCode.NON_FINITE,
            "the update holds NaN or infinite values; lower training.learning_rate or check the local data",
        )
    bound = spec.limits.update_norm
    if bound and (norm := delta.norm()) > bound:
        raise FedhftError(
            ErrorCode.NORM_TOO_LARGE,
            f"the update's norm {norm:.4g} exceeds limits.update_norm = {bound:g}; lower training.learning_rate",
        )
