"""What this machine's owner allows: which jobs, whose jobs, and how much each may ask of the machine and its data.

Pure decisions. `check_offer` looks at a job before it is joined; `check_task` looks at every task, because the plan in
the task is what would be trained. Both raise FedhftError(DECLINED) with every rule that is broken.

Submitter, quorum and share are the server's word: the rules protect from whoever submits jobs to an honest server. A
server that lies about them has to be kept out by `--tls-authority`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fedhft.errors import ErrorCode, FedhftError
from fedhft.methods import Combine

if TYPE_CHECKING:  # settings are read before anything heavy is imported
    from fedhft.job import JobSpec
    from fedhft.plan import AdapterPlan


@dataclass(frozen=True)
class OwnerRules:
    """An owner's rules; None, or (), does not bound."""

    allow_jobs: tuple[str, ...] = ()
    """Patterns (* and ?) of names of jobs."""
    allow_operators: tuple[str, ...] = ()
    """Patterns of operators; a job whose submitter is not known is then declined."""
    allow_encodings: tuple[str, ...] = ()
    """Value encodings in which an update may be asked for."""
    least_updates: int | None = None
    """Fewest updates that a round may be published from."""
    largest_share: float | None = None
    """Largest share of any cluster's average that this client may be, 0..1."""
    most_rounds: int | None = None
    most_epochs: float | None = None
    """Per round."""
    most_steps: int | None = None
    """Optimiser steps, per round."""
    most_rank: int | None = None
    """LoRA rank; with it, methods that train all weights are declined too."""
    most_depth: int | None = None
    """Layers."""


NO_RULES = OwnerRules()


@dataclass(frozen=True)
class Asked:
    """What one task asks for.

    steps: optimiser steps that the plan makes on this client's rows. quorum, share: as the server tells them; None for
    a task after which nothing is published.
    """

    round: int
    plan: AdapterPlan
    steps: int
    quorum: int | None = None
    share: float | None = None


def check_offer(rules: OwnerRules, spec: JobSpec, submitted_by: str) -> None:
    """Check a job against the rules, as far as its specification tells. Raises DECLINED."""
    _decline(spec.name, [*_about_names(rules, spec, submitted_by), *_about_spec(rules, spec)])


def check_task(rules: OwnerRules, spec: JobSpec, asked: Asked) -> None:
    """Check one task against the rules. Raises DECLINED."""
    _decline(spec.name, [*_about_work(rules, spec, asked), *_about_company(rules, spec, asked)])


def most_steps(rules: OwnerRules, epochs: float, batches: int) -> int:
    """The most steps of a round that the owner allows in a job of so many epochs of so many batches; 0: any."""
    limits = [] if rules.most_steps is None else [rules.most_steps]
    if rules.most_epochs is not None:
        limits.append(max(math.floor(rules.most_epochs * batches), round(epochs * batches)))
    return max(1, min(limits)) if limits else 0


def _decline(job: str, objections: list[str]) -> None:
    if objections:
        raise FedhftError(
            ErrorCode.DECLINED,
            f"job {job} breaks rules of this agent's owner: {'; '.join(objections)}; change the job, or ask the owner",
        )


def _about_names(rules: OwnerRules, spec: JobSpec, submitted_by: str) -> Iterator[str]:
    if rules.allow_jobs and not _matches(spec.name, rules.allow_jobs):
        yield f"name = {spec.name!r} is not in allow_jobs = {list(rules.allow_jobs)}"
    if rules.allow_operators and not (submitted_by and _matches(submitted_by, rules.allow_operators)):
        yield f"submitted_by = {submitted_by!r} is not in allow_operators = {list(rules.allow_operators)}"


def _about_spec(rules: OwnerRules, spec: JobSpec) -> Iterator[str]:
    shares = spec.method.combine is not Combine.NONE
    if shares and rules.allow_encodings and spec.wire.up not in rules.allow_encodings:
        yield f"wire.up = {spec.wire.up!r} is not in allow_encodings = {list(rules.allow_encodings)}"
    least = least_updates(spec)
    if shares and rules.least_updates is not None and least < rules.least_updates:
        rounds = spec.rounds
        yield (
            f"rounds.min_clients = {rounds.min_clients} with rounds.sample = {rounds.sample:g} and rounds.quorum = "
            f"{rounds.quorum:g} publishes from {least} updates, fewer than least_updates = {rules.least_updates}"
        )
    yield from _beyond("rounds.total", spec.rounds.total, "most_rounds", rules.most_rounds)
    yield from _beyond("training.epochs", spec.training.epochs, "most_epochs", rules.most_epochs)
    if spec.method.uses_adapters:
        least_rank = min((tier.rank or spec.adapter.most_rank) for tier in spec.tiers.values())
        name = "adapter.rank" if least_rank == spec.adapter.most_rank else "rank of every tier"
        yield from _beyond(name, least_rank, "most_rank", rules.most_rank)
    elif rules.most_rank is not None:
        yield f"method.trained = {spec.method.trained.value!r} trains all weights, beyond most_rank = {rules.most_rank}"
    depths = [tier.depth or spec.adapter.depth for tier in spec.tiers.values()]
    if all(depths):  # 0 means all layers, and how many those are is known once the model is loaded
        yield from _beyond("depth of every tier", min(depths), "most_depth", rules.most_depth)


def _about_work(rules: OwnerRules, spec: JobSpec, asked: Asked) -> Iterator[str]:
    # The final evaluation is a round of its own, after the last one.
    last = None if rules.most_rounds is None else rules.most_rounds + (asked.quorum is None)
    yield from _beyond("task.round", asked.round, "most_rounds", last)
    yield from _beyond("task.plan.epochs", asked.plan.epochs, "most_epochs", rules.most_epochs)
    yield from _beyond("steps of the task's plan", asked.steps, "most_steps", rules.most_steps)
    yield from _beyond("task.plan.depth", asked.plan.depth, "most_depth", rules.most_depth)
    if spec.method.uses_adapters:
        rank = asked.plan.rank or spec.adapter.most_rank
        yield from _beyond("task.plan.rank", rank, "most_rank", rules.most_rank)


def _about_company(rules: OwnerRules, spec: JobSpec, asked: Asked) -> Iterator[str]:
    if spec.method.combine is Combine.NONE or asked.quorum is None or asked.share is None:
        return
    if rules.least_updates is not None and asked.quorum < rules.least_updates:
        yield f"task.quorum = {asked.quorum} is below least_updates = {rules.least_updates}"
    # A server of an earlier release tells no share: 0, which no participant's can be.
    if rules.largest_share is not None and not 0 < asked.share <= rules.largest_share:
        yield f"task.share = {asked.share:.3g} is not within largest_share = {rules.largest_share:g}"


def least_updates(spec: JobSpec) -> int:
    """Fewest updates that the first round of a job may be published from: the quorum of the sample of min_clients."""
    rounds = spec.rounds
    sampled = max(1, math.ceil(rounds.sample * rounds.min_clients - 1e-9))
    return max(1, math.ceil(rounds.quorum * sampled - 1e-9))


def _beyond(what: str, value: float, rule: str, most: float | None) -> Iterator[str]:
    if most is not None and not value <= most:  # not a number is beyond everything
        yield f"{what} = {value:g} is above {rule} = {most:g}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
