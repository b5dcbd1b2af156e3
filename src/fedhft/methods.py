"""Methods: every federated fine-tuning method here is a combination of independent choices.

A preset is data, not a class, so an ablation is one changed word in the job file. Papers of the presets:
fedhft-paper: Ilhan et al. 2025 (arXiv 2510.14054); legend: Liu et al. 2024 (arXiv 2412.20004; our reconstruction from
its abstract); fedit: Zhang et al. 2023 (arXiv 2305.05644);
ffa-lora: Sun et al. 2024 (arXiv 2403.12313); rolora: Chen et al. 2024 (arXiv 2409.02346);
hetlora: Cho et al. 2024 (arXiv 2401.06432); flexlora: Bai et al. 2024 (arXiv 2402.11505); flora: Wang et al. 2024
(arXiv 2409.05976); fedsa-lora: Guo et al. 2024 (arXiv 2410.01463);
full: McMahan et al. 2017 (FedAvg, arXiv 1602.05629). combine = "trimmed-mean": Yin et al. 2018 (arXiv 1803.01498).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Allocation(StrEnum):
    """Who gets which depth, density, rank and number of local steps.

    capacity: depth and steps by what each device was measured to do, within its tier (`fedhft.planning.allocation`).
    """

    UNIFORM = "uniform"
    TIERS = "tiers"
    CAPACITY = "capacity"


class Trained(StrEnum):
    """What has gradients besides the task head.

    alternate: B in odd rounds, A in even ones. interleaved: B in every round, A in even ones as well.
    """

    BOTH = "both"
    B = "b"
    ALTERNATE = "alternate"
    INTERLEAVED = "interleaved"
    ALL_WEIGHTS = "all-weights"


class Start(StrEnum):
    """How a round begins: train on from the published factors, or fold them into the base and redraw."""

    CONTINUE = "continue"
    RESTART = "restart"


class Combine(StrEnum):
    """How updates become one adapter.

    trimmed-mean: what a method sends is that of factors, or of mean with all weights; every coordinate is averaged
    without its extremes. padded, svd: factors of unequal ranks, see `aggregation.unequal_ranks`. only-a: A is averaged;
    B and the head stay with their client.
    """

    FACTORS = "factors"
    PRODUCTS = "products"
    MEAN = "mean"
    TRIMMED_MEAN = "trimmed-mean"
    PADDED = "padded"
    SVD = "svd"
    ONLY_A = "only-a"
    NONE = "none"

    @property
    def takes_ranks(self) -> bool:
        """Whether clients may hold fewer columns of A and B than the adapter has."""
        return self in (Combine.PRODUCTS, Combine.PADDED, Combine.SVD)

    @property
    def makes_one_model(self) -> bool:
        """Whether what is published is a whole adapter, or model, that anyone could use."""
        return self not in (Combine.ONLY_A, Combine.NONE)


class MaskRule(StrEnum):
    """How a client with density < 1 chooses the rows it trains and sends."""

    NONE = "none"
    GRADIENT = "gradient"
    DELTA_NORM = "delta-norm"
    RANDOM = "random"


class SignatureKind(StrEnum):
    """What clients are clustered by."""

    ANCHOR = "anchor"
    UPDATE = "update"


class ServerStep(StrEnum):
    """What the server does with the mean difference."""

    PLAIN = "plain"
    MOMENTUM = "momentum"
    ADAGRAD = "adagrad"
    ADAM = "adam"
    YOGI = "yogi"

    @property
    def is_adaptive(self) -> bool:
        """Whether every value has a step size of its own, from the squares of its mean differences."""
        return self in (ServerStep.ADAGRAD, ServerStep.ADAM, ServerStep.YOGI)

    @property
    def held(self) -> int:
        """Tensors of the state's size that the server carries for it."""
        return 0 if self is ServerStep.PLAIN else 2 if self.is_adaptive else 1


class Method(BaseModel):
    """The choices that make a method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = Field("fedhft", max_length=63, description="Name of the preset these choices started from.")
    allocation: Allocation = Field(Allocation.TIERS, description="Who gets which depth, density, rank and local steps.")
    trained: Trained = Field(Trained.BOTH, description="What has gradients besides the head.")
    start: Start = Field(Start.CONTINUE, description="How a round begins.")
    combine: Combine = Field(Combine.FACTORS, description="How updates become one adapter.")
    share_a: bool = Field(True, description="All clusters share one A; only B and the head are per cluster.")
    mask: MaskRule = Field(MaskRule.GRADIENT, description="How a client with density < 1 chooses its rows.")
    clusters: int | Literal["auto"] = Field(
        "auto", description="Number of clusters J, or auto: found in the data, up to clustering.maximum."
    )
    signature: SignatureKind = Field(SignatureKind.ANCHOR, description="What clients are clustered by.")
    server: ServerStep = Field(ServerStep.PLAIN, description="Server step applied to the mean difference.")

    @model_validator(mode="after")
    def _combinations_that_work(self) -> Method:
        if isinstance(self.clusters, int) and not 1 <= self.clusters <= 64:
            raise ValueError(f'clusters = {self.clusters}: must be 1 to 64; or write "auto"')
        if (self.combine is Combine.PRODUCTS) != (self.start is Start.RESTART):
            raise ValueError(
                f'combine = "{self.combine}" with start = "{self.start}": products and restart only work together; '
                'set both (combine = "products", start = "restart") or neither'
            )
        if self.server.is_adaptive and self.combine is Combine.PRODUCTS:
            raise ValueError(
                f'server = "{self.server}" with combine = "products": squares of single values need the whole product, '
                'which is kept as two thin factors; use server = "momentum", or combine = "factors"'
            )
        if self.start is Start.RESTART and self.trained is not Trained.BOTH:
            raise ValueError(
                f'trained = "{self.trained}" with start = "restart": restart trains both factors; set trained = "both"'
            )
        if self.start is Start.RESTART and self.share_a:
            raise ValueError('share_a = true with start = "restart": A is redrawn every round; set share_a = false')
        if self.combine is Combine.MEAN and self.trained is not Trained.ALL_WEIGHTS:
            raise ValueError(
                f'combine = "mean" with trained = "{self.trained}": mean averages whole models; set trained = '
                '"all-weights", or combine = "factors"'
            )
        if self.trained is Trained.ALL_WEIGHTS and self.combine not in (Combine.MEAN, Combine.TRIMMED_MEAN):
            raise ValueError(
                f'combine = "{self.combine}" with trained = "all-weights": there are no factors; set combine = "mean" '
                'or "trimmed-mean"'
            )
        if self.trained is Trained.ALL_WEIGHTS and (self.clusters != 1 or self.mask is not MaskRule.NONE):
            raise ValueError('trained = "all-weights" needs clusters = 1 and mask = "none"')
        if self.trained is Trained.ALL_WEIGHTS and self.allocation is Allocation.CAPACITY:
            raise ValueError(
                'allocation = "capacity" with trained = "all-weights": it plans how many layers carry adapters; set '
                'allocation = "uniform"'
            )
        if self.combine is Combine.NONE and self.clusters != 1:
            raise ValueError('combine = "none" shares nothing, so clusters must be 1')
        if self.combine in (Combine.PADDED, Combine.SVD, Combine.ONLY_A):
            self._check_plain_factors()
        return self

    def _check_plain_factors(self) -> None:
        """What hetlora, flexlora and fedsa-lora are defined for: one adapter, whole, of which both factors train."""
        wanted = {"trained": Trained.BOTH, "clusters": 1, "share_a": False, "mask": MaskRule.NONE}
        if self.combine is Combine.SVD:
            wanted["server"] = ServerStep.PLAIN
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f'{name} = {_written(getattr(self, name))} with combine = "{self.combine}": works with {name} = '
                    f"{_written(value)} alone; set that, or another combine"
                )

    @property
    def is_clustered(self) -> bool:
        """Whether clients can end up in more than one cluster."""
        return self.clusters != 1

    @property
    def clusters_by_anchors(self) -> bool:
        """Whether clients send an anchor signature when they join."""
        return self.is_clustered and self.signature is SignatureKind.ANCHOR

    @property
    def uses_adapters(self) -> bool:
        """Whether LoRA slots exist (every method but `full`)."""
        return self.trained is not Trained.ALL_WEIGHTS

    def trains_a(self, round_number: int) -> bool:
        """Whether A has gradients in this round (1-based). Round 1 trains B: while B = 0, A's gradient is zero."""
        if self.trained in (Trained.ALTERNATE, Trained.INTERLEAVED):
            return round_number % 2 == 0
        return self.trained is Trained.BOTH

    def trains_b(self, round_number: int) -> bool:
        """Whether B has gradients in this round (1-based)."""
        if self.trained is Trained.ALTERNATE:
            return round_number % 2 == 1
        return self.trained in (Trained.BOTH, Trained.B, Trained.INTERLEAVED)


def _written(value: object) -> str:
    """A choice as a job file has it."""
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


_PLAIN: dict[str, object] = {"allocation": "uniform", "share_a": False, "mask": "none", "clusters": 1}

PRESETS: dict[str, dict[str, object]] = {
    "fedhft": {},
    "fedhft-paper": {
        "start": "restart", "combine": "products", "share_a": False, "clusters": 2, "signature": "update",
    },
    "legend": {**_PLAIN, "allocation": "capacity"},
    "fedit": {**_PLAIN},
    "ffa-lora": {**_PLAIN, "trained": "b"},
    "rolora": {**_PLAIN, "trained": "alternate"},
    "hetlora": {**_PLAIN, "allocation": "tiers", "combine": "padded"},
    "flexlora": {**_PLAIN, "allocation": "tiers", "combine": "svd"},
    "flora": {**_PLAIN, "allocation": "tiers", "combine": "products", "start": "restart"},
    "fedsa-lora": {**_PLAIN, "combine": "only-a"},
    "full": {**_PLAIN, "trained": "all-weights", "combine": "mean"},
    "local": {**_PLAIN, "combine": "none"},
}  # fmt: skip

_UNQUANTISED: dict[str, object] = {"up": "fp32", "down": "fp32", "error_feedback": False}

PRESET_ADAPTER: dict[str, dict[str, object]] = {"legend": {"ranks": "progression"}}
"""A preset's LoRA settings where the job file names none."""

PRESET_SERVER: dict[str, dict[str, object]] = {"flora": {"publish_rank": 0}}
"""A preset's server settings where the job file names none: flora stacks, and cuts nothing off."""

PRESET_WIRE: dict[str, dict[str, object]] = {
    "fedhft": {"levels": 7},
    "fedit": _UNQUANTISED,
    "ffa-lora": _UNQUANTISED,
    "rolora": _UNQUANTISED,
    "hetlora": _UNQUANTISED,
    "flexlora": _UNQUANTISED,
    "flora": _UNQUANTISED,
    "fedsa-lora": _UNQUANTISED,
    "full": _UNQUANTISED,
    "local": _UNQUANTISED,
}
"""A preset's value encodings where the job file names none: baselines are sent as in their papers."""


def method_of(preset: str, **choices: object) -> Method:
    """A preset with some choices changed. Raises ValueError for an unknown preset or an impossible combination."""
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}: unknown; choose one of {', '.join(sorted(PRESETS))}")
    return Method.model_validate({**PRESETS[preset], **choices, "preset": preset})
