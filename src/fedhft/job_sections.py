"""The tables of a job file, one class each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedhft.documents import nearest
from fedhft.job_values import Duration, Encoding, Name, Size
from fedhft.scoring.metrics import DEFAULTS, KINDS, KINDS_WITH_HEAD, KINDS_WITH_PAIRS, METRICS, metric, names_for

if TYPE_CHECKING:
    from fedhft.adapter import Float64
    from fedhft.scoring.pooling import Tally

MOST_CLIENTS = 1_000_000
"""Most clients that a job may name, or wait for."""
TASK_PLUGINS = "fedhft.tasks"
"""Entry points by which a package brings tasks of its own; the name of one is a kind of task."""
_KINDS_WITH_LABELS = frozenset({"classification", "multi-label", "token-classification"})
"""Kinds whose targets are named by `task.labels`."""
_LEAST_LABELS = {"classification": 2, "token-classification": 2, "multi-label": 1}


class Section(BaseModel):
    """A table of a job file: values that do not change, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class TaskSpec(Section):
    """The task and the columns of its data."""

    kind: Name = Field(
        "classification",
        description=f"Kind of task: {', '.join(KINDS)}, or one that an installed package brings (entry point "
        f"`{TASK_PLUGINS}`).",
    )
    labels: tuple[Name, ...] = Field(
        (),
        max_length=4096,
        description="Names in class order: of labels, or of tags (`O`, `B-PER`, `I-PER`, ...); none for other kinds.",
    )
    metrics: tuple[Name, ...] = Field(
        (),
        max_length=8,
        description="What is measured, the score first (a metric of which more is better); empty means the kind's own.",
    )
    text: Name = Field("text", description="Column of the text; for token-classification, of its list of words.")
    text_pair: Name | None = Field(None, description="Column of the second text, for pair tasks.")
    label: Name = Field(
        "label",
        description="Column of the target: a label name or an index, a list of them (multi-label; tags), or a number.",
    )
    target_mean: float = Field(
        0.0, ge=-1e30, le=1e30, description="Regression: subtracted from every target; the mean of all, say."
    )
    target_std: float = Field(
        1.0, gt=0, le=1e30, description="Regression: what targets are then divided by; their standard deviation, say."
    )
    format: Literal["prompt", "text", "messages"] = Field(
        "prompt",
        description="causal-lm: rows are a prompt and its completion, plain text, or a conversation for the tokenizer's"
        " chat template. The loss is on completions (of assistants), or on all of a plain text.",
    )
    prompt: Name = Field("prompt", description="causal-lm: column of the prompt.")
    completion: Name = Field("completion", description="causal-lm: column of the completion.")
    messages: Name = Field("messages", description="causal-lm: column of the list of {role, content}.")
    head: Literal["new", "keep"] = Field(
        "new",
        description="Where the head starts: drawn anew from the job's seed, or as the base model's files hold it, which"
        " must be for the same labels.",
    )
    packing: bool = Field(
        False,
        description="causal-lm: train on several rows in one sequence of model.max_length tokens; none attends to "
        "another.",
    )

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics, the score first; empty for a task of your own that leaves them to its package."""
        return self.metrics or DEFAULTS.get(self.kind, ())

    @property
    def least_score(self) -> float:
        """The worst score there is; the best is 1. An accuracy begins at 0, a correlation at -1."""
        names = self.measured
        return metric(names[0]).least if names and names[0] in METRICS else -1.0

    @property
    def has_head(self) -> bool:
        """Whether a head is certainly trained beside the adapters; a package's own task may have one or not."""
        return self.kind in KINDS_WITH_HEAD

    @property
    def may_have_pairs(self) -> bool:
        """Whether rows may be pairs of texts."""
        return self.kind in KINDS_WITH_PAIRS

    @property
    def sums(self) -> int:
        """How many sums a score of a common split carries (see `scoring.pooling`)."""
        from fedhft.scoring.pooling import sums_of  # numpy, which a command that only reads a job does not need

        return sums_of(self.kind, self.labels, self.measured)

    def sums_problem(self, sums: Sequence[float], rows: int, most_places: int) -> str:
        """Why sums cannot be those of `rows` rows of at most `most_places` targets each; empty where they can be."""
        from fedhft.scoring.pooling import inconsistent

        return inconsistent(self.kind, sums, rows, most_places)

    def tally(self, sums: Sequence[float] | Float64) -> Tally:
        """What such sums say. For tasks that have sums."""
        from fedhft.scoring.pooling import tally_of

        return tally_of(self.kind, sums)

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSpec:
        if self.kind not in KINDS:
            _check_own_kind(self.kind)
        elif self.head == "keep" and self.kind not in KINDS_WITH_HEAD:
            raise ValueError(f'head = "keep": {self.kind} trains no head; remove the field')
        elif self.kind not in _KINDS_WITH_LABELS:
            if self.labels:
                raise ValueError(f"labels: {self.kind} has none; remove the field")
        elif len(self.labels) < _LEAST_LABELS[self.kind] or len(set(self.labels)) != len(self.labels):
            least = "two or more" if _LEAST_LABELS[self.kind] == 2 else "one or more"
            raise ValueError(f"labels = {list(self.labels)!r}: {self.kind} needs {least} distinct label names")
        _check_order(self.labels)
        return self

    @model_validator(mode="after")
    def _metrics_fit_kind(self) -> TaskSpec:
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"metrics = {list(self.metrics)!r}: name each metric once")
        if self.kind not in KINDS:
            return self
        known = names_for(self.kind)
        for name in self.metrics:
            if name not in known:
                raise ValueError(f"metrics: {self.kind} has no {name!r}; choose from {', '.join(known)}")
        if self.metrics and not metric(self.metrics[0]).more_is_better:
            scores = [name for name in known if metric(name).more_is_better]
            raise ValueError(
                f"metrics: the first one is the score, but of {self.metrics[0]!r} less is better; put one of "
                f"{', '.join(scores)} first"
            )
        if self.text_pair is not None and self.kind not in KINDS_WITH_PAIRS:
            raise ValueError(f"text_pair = {self.text_pair!r}: {self.kind} has no pairs of texts; remove the field")
        return self


def _check_own_kind(kind: str) -> None:
    """Refuse a kind of task that neither fedhft nor an installed package has. Raises ValueError."""
    own = sorted({found.name for found in entry_points(group=TASK_PLUGINS)})
    if kind not in own:
        likely = nearest(kind, (*KINDS, *own))
        raise ValueError(
            f"kind = {kind!r}: unknown kind of task; "
            + (f"did you mean {likely!r}? Otherwise " if likely else "")
            + f"use one of {', '.join((*KINDS, *own))}, or install the package that brings it"
        )


def _check_order(labels: tuple[str, ...]) -> None:
    """Refuse names of which every one is also the index of a label, but of another: nobody could tell what 1 means."""
    indices = [str(index) for index in range(len(labels))]
    if set(labels) == set(indices) and list(labels) != indices:
        raise ValueError(
            f"labels = {list(labels)!r}: every name is also the index of another label, so a 1 in the data could mean "
            f"either; write them in the order {indices!r}, or give them names"
        )


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
    origin: str = Field(
        "",
        alias="from",
        max_length=512,
        description="Warm start: a PEFT directory, or JOB@VERSION of the same server (JOB: its last version), whose "
        "adapter and head are where this job begins; read when it is submitted. Empty: a new adapter.",
    )

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
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e9, description="Gradient norm is clipped to this.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Arithmetic of forward and backward passes. bf16 (autocast; weights, gradients and optimiser stay "
        "fp32) is about twice as fast on CPUs that have it and slower on those that do not.",
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
    publish_rank: int = Field(16, ge=1, le=1024, description="Rank of a published product delta (combine = products).")


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
    final: bool = Field(True, description="Evaluate the last version before and after one more local training.")
    final_shared: Literal["full", "sharded"] = Field(
        "full",
        description="In the final evaluation each client scores the whole shared split, or only its share (pooled).",
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
