"""The tables of a job file, one class each; job_task.py has that of the task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from fedhft.job_values import Duration, Encoding, Name, Section, Size

MOST_CLIENTS = 1_000_000
"""Most clients that a job may name, or wait for."""


class ModelSpec(Section):
    """The pre-trained model that every agent has or can fetch."""

    name: Name = Field(description="Hugging Face hub id or local path; each agent may map it to a path of its own.")
    revision: Name | None = Field(None, description="Hub revision; ignored for paths.")
    digest: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Base digest as `fedhft model digest` prints it; without one, the first agent's becomes the job's.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens per row; longer rows are cut.")


class AdapterSpec(Section):
    """LoRA settings, as in PEFT."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    rank: int = Field(8, ge=1, le=512, description="LoRA rank r.")
    alpha: float = Field(16.0, gt=0, le=1e6, description="LoRA alpha; the adapter is scaled by alpha / r.")
    targets: Literal["auto", "all-linear"] | Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)] = Field(
        "auto",
        description='Linear modules to adapt: "auto" (the usual ones of the architecture), "all-linear" (every one '
        "inside the layers), or a list of endings of names and of patterns for whole names (`*.layers.1?.*_proj`).",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the inputs of A that are dropped in training (LoRA dropout)."
    )
    depth: int = Field(0, ge=0, le=4096, description="Layers, counted from the output, with adapters; 0 means all.")
    ranks: (
        Literal["uniform", "progression"]
        | Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(min_length=1, max_length=4096)]
    ) = Field(
        "uniform",
        description='Ranks of the layers: all `rank` ("uniform"), growing in equal steps toward the output with `rank` '
        'as their mean ("progression", LEGEND), or a list from the first layer to the last.',
    )
    scaling: Literal["equal", "by-rank"] = Field(
        "equal",
        description="Where ranks differ: adapters are scaled by alpha / rank (equal), or by alpha over their own rank "
        "(by-rank).",
    )
    origin: str = Field(
        "",
        alias="from",
        max_length=512,
        description="Warm start: a PEFT directory, or JOB@VERSION of the same server (JOB: its last version), whose "
        "adapter and head are where this job begins; read when it is submitted. Empty: a new adapter.",
    )

    @property
    def most_rank(self) -> int:
        """Largest rank that a layer can have."""
        if isinstance(self.ranks, tuple):
            return max(self.ranks)
        return self.rank if self.ranks == "uniform" else 2 * self.rank

    def ranks_of(self, layers: int) -> tuple[int, ...]:
        """The rank of every layer of a model, the first layer first.

        progression: r_l = round(2 rank (l + 1) / (layers + 1)), at least 1, for l = 0 .. layers - 1: rank on average.
        Raises ValueError for a list of another length.
        """
        if isinstance(self.ranks, tuple):
            if len(self.ranks) != layers:
                raise ValueError(
                    f"adapter.ranks: {len(self.ranks)} ranks for a model of {layers} layers; write one for each layer"
                )
            return self.ranks
        if self.ranks == "uniform":
            return (self.rank,) * layers
        return tuple(max(1, round(2 * self.rank * (layer + 1) / (layers + 1))) for layer in range(layers))

    def alpha_of(self, rank: int) -> float:
        """The alpha with which an adapter of this rank is scaled by alpha_of(rank) / rank, as PEFT does."""
        if self.scaling == "by-rank" or rank == self.rank:
            return self.alpha
        return self.alpha * rank / self.rank

    @property
    def targets_line(self) -> str:
        """The targets, for people."""
        return self.targets if isinstance(self.targets, str) else ", ".join(self.targets)


class Tier(Section):
    """A class of devices. The first tier whose min_memory a device reaches, largest first, is its tier."""

    density: float = Field(1.0, gt=0, le=1, description="Fraction of rows trained and sent.")
    depth: int = Field(
        0, ge=0, le=4096, description="Layers, counted from the output, to train; 0 means adapter.depth."
    )
    rank: int = Field(
        0,
        ge=0,
        le=512,
        description="Most columns of A and B that are held, trained and sent, the first ones; 0 means all. Of use to "
        "methods that combine unequal ranks: products, padded, svd.",
    )
    min_memory: Size = Field(0, description="Least memory budget, in bytes, that a device of this tier reports.")


class TrainingSpec(Section):
    """Local training (AdamW)."""

    learning_rate: float = Field(3e-3, gt=0, le=1, description="AdamW learning rate in the first round.")
    learning_rate_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate per round: round t uses learning_rate * decay^(t-1).",
    )
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the local data per round.")
    max_steps: int = Field(0, ge=0, lt=2**31, description="Cap on optimiser steps per round; 0 means none.")
    batch_size: int = Field(16, ge=1, le=4096, description="Rows per optimiser step.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate inside a round: constant, or falling to nothing at its end."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of a round's steps in which the learning rate rises.")
    proximal: float = Field(
        0.0, ge=0, le=1e6, description="mu of FedProx: pulls what is trained back to where the round began; 0: off."
    )
    rank_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="gamma of HetLoRA's rank self-pruning (combine = padded): the share of its columns that a client "
        "keeps when it gives up the last ones; 1: off.",
    )
    rank_penalty: float = Field(
        0.0, ge=0, le=1e6, description="lambda of HetLoRA's rank self-pruning: pulls the last columns to zero; 0: off."
    )
    class_weights: (
        Literal["none", "balanced"]
        | Annotated[dict[Name, Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=1, max_length=4096)]
    ) = Field(
        "none",
        description='What a row of each label counts in training: "none" (all alike), "balanced" (every label of a '
        "client alike in sum), or a table of label and weight (1 where it names none).",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of every target that is spread evenly over all classes, in training."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e9, description="Gradient norm is clipped to this.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Arithmetic of forward and backward passes. bf16 (autocast; weights, gradients and optimiser stay "
        "fp32) is about twice as fast on CPUs that have it and slower on those that do not.",
    )


class PlanningSpec(Section):
    """Planning by capacity (method.allocation = "capacity")."""

    every: int = Field(5, ge=1, le=100000, description="Rounds after which plans are made again.")
    sits_out: int = Field(
        3, ge=1, le=1000, description="Most rounds in a row that a device too slow for the others sits out."
    )
    depth: bool = Field(
        True, description="Whether depths are planned; without that everybody trains all layers it has memory for."
    )
    least_steps: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Least share of the steps of training.epochs that a plan has; 1 means that steps are not planned.",
    )
    most_steps: float = Field(
        2.0,
        ge=1,
        le=100,
        description="Most steps of a device that would wait otherwise, as a multiple of those of training.epochs.",
    )
    gain_decay: float = Field(
        0.3,
        gt=0,
        le=1,
        description="What is to be gained in a layer, as a factor on the one above. Less than 1 favours shallow plans.",
    )


class MaskSpec(Section):
    """How rows are chosen (methods with a mask)."""

    exploration: float = Field(0.1, ge=0, lt=1, description="Share of the row budget for rows not sent for longest.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Weight of older rounds in a row's importance score.")
    tau: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Damping of rows that few clients sent: the divisor is at least tau times the full mass.",
    )


class ClusteringSpec(Section):
    """Gaussian mixture over client signatures (FedHFT, Ilhan et al. 2025, arXiv 2510.14054)."""

    by: Literal["data", "data+resources"] = Field(
        "data", description="What clients are clustered by: their data, or their data and how fast device and link are."
    )
    maximum: int = Field(4, ge=2, le=64, description='Largest J that clusters = "auto" may choose.')
    warmup_rounds: int = Field(
        1, ge=1, le=100000, description="Uniform rounds before clustering, for signature = update."
    )
    temperature: float = Field(1.0, gt=0, le=100, description="Posteriors are raised to 1/temperature.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Weight of the last memberships when they are updated.")
    covariance: Literal["diag", "tied"] = Field("diag", description="Covariance of the mixture's components.")
    ridge: float = Field(1e-2, gt=0, le=1e6, description="Added to every variance, in units of the mean variance.")
    serve_above: float = Field(0.05, ge=0, lt=0.5, description="Memberships below this are not served to the client.")


class ServerSpec(Section):
    """The server's step from the mean difference; see `method.server`."""

    eta: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Server learning rate; where the step is adaptive (adagrad, adam, yogi) 0.01 unless given.",
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Server momentum: of FedAvgM (server = momentum), beta1 of the adaptive steps.",
    )
    beta2: float = Field(0.99, ge=0, lt=1, description="Weight of older squares in the adaptive steps adam and yogi.")
    adaptivity: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="tau of the adaptive steps, added to the root of the squares: the larger, the less they adapt.",
    )
    trim: float = Field(
        0.2,
        ge=0,
        le=0.49,
        description="Share of the weight that is cut off at either end of every coordinate's values (combine = "
        "trimmed-mean); 0 cuts nothing, which is the mean.",
    )
    publish_rank: int = Field(
        16,
        ge=0,
        le=1024,
        description="Rank of a published product delta (combine = products); 0 means as many as it has.",
    )


class WireSpec(Section):
    """How tensors travel."""

    up: Encoding = Field("int8", description="Values of updates.")
    down: Encoding = Field("int8", description="Values of published versions.")
    group: int = Field(64, ge=16, le=4096, description="Values per int8 scale.")
    levels: int = Field(
        127,
        ge=1,
        le=127,
        description="Steps of an int8 value on either side of zero; entropy coding turns half the levels into one bit"
        " less per value.",
    )
    error_feedback: bool = Field(True, description="Carry what quantisation dropped into the next round, where sound.")
    error_feedback_decay: float = Field(0.9, ge=0, le=1, description="Factor on carried error per round.")


class RoundsSpec(Section):
    """When rounds open and close. All times are durations."""

    total: int = Field(5, ge=1, le=100000, description="Rounds to run.")
    min_clients: int = Field(
        2, ge=1, le=MOST_CLIENTS, description="Clients that must have joined before the first round opens."
    )
    sample: float = Field(1.0, gt=0, le=1, description="Fraction of live clients sampled each round.")
    target: float = Field(1.0, gt=0, le=1, description="Fraction of participants whose updates close a round early.")
    quorum: float = Field(0.5, gt=0, le=1, description="Fraction of participants needed at the deadline.")
    deadline: Duration = Field(600.0, description="A round's length, seconds.")
    extensions: int = Field(2, ge=0, le=100, description="Times a round without quorum is extended by its deadline.")
    join_timeout: Duration = Field(1800.0, description="Longest wait for min_clients, seconds.")
    client_timeout: Duration = Field(
        120.0, description="A client silent for longer is not sampled when a round opens, seconds."
    )

    @model_validator(mode="after")
    def _quorum_below_target(self) -> RoundsSpec:
        if self.quorum > self.target:
            raise ValueError(f"quorum = {self.quorum}: must not exceed target = {self.target}")
        return self


class EvaluationSpec(Section):
    """What is scored, on which rows and when."""

    holdout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of an agent's rows held out for its personal score, if it has no split of its own.",
    )
    every: int = Field(1, ge=0, le=100000, description="Rounds between evaluations; 0 evaluates only at the end.")
    rows: int = Field(
        0,
        ge=0,
        le=2**40,
        description="Most rows of each split that a client scores in a round, always the same ones; 0 means all. The "
        "final evaluation scores all.",
    )
    final: bool = Field(True, description="Evaluate the last version before and after one more local training.")
    final_shared: Literal["full", "sharded"] = Field(
        "full",
        description="In the final evaluation each client scores the whole shared split, or only its share (pooled).",
    )


class StoppingSpec(Section):
    """Which version is the best, and when a job that gets no better ends before its last round."""

    metric: str = Field(
        "",
        max_length=256,
        description='What versions are compared by: one of task.metrics, or "loss"; empty means the score.',
    )
    rows: Literal["personal", "shared"] = Field(
        "personal",
        description="Where it is measured, before local training: on clients' own held-out rows (mean over clients, of "
        "the loss the median), or on the common validation split.",
    )
    min_delta: float = Field(
        0.0, ge=0, le=1e30, description="A version is better than the best one when it is by more than this."
    )
    patience: int = Field(
        0,
        ge=0,
        le=100000,
        description="Scored rounds in a row without a better version after which no more rounds open; 0 means never.",
    )


class LimitsSpec(Section):
    """Upper limits on what clients send, and on how far one client can move a round."""

    update_bytes: Size = Field(0, description="Largest accepted update; 0 means twice what the plan needs in fp32.")
    update_norm: float = Field(
        0.0, ge=0, le=1e30, description="Largest accepted Frobenius norm of an update: at most 1e6, which 0 means too."
    )
    samples: int = Field(
        10_000_000, ge=1, le=2**40, description="Most training rows that a client may state; they are its weight."
    )
    fold_memory: Size = Field(
        2**31,
        description="Most memory that folding a round may take, in bytes; a schema that would need more is refused when"
        " a client joins with it.",
    )
    sample_cap: float = Field(
        2.0,
        ge=0,
        le=1e9,
        description="A client weighs as many samples as it has, but at most this many times the median of the round's "
        "clients; 0 means no cap.",
    )
    clip: float = Field(
        1.5,
        ge=0,
        le=1e9,
        description="An update is scaled down to at most this many times the median size (root mean square over its "
        "plan's values) of the round's updates; 0 means never.",
    )
    opposed: float = Field(
        0.1,
        ge=0,
        le=1,
        description="An update is left out when its direction has a cosine under minus this with the others of its "
        "clusters, unless that would leave out more than a third; 0 means never.",
    )
