"""What happens to a job next, as a pure function of the store's content and clock.

A job is waiting -> running -> evaluating -> completed, or failed, or cancelled; a round is collecting -> folding ->
published. The aggregator and `simulate` both call `decide` and carry out its decision. Otherwise a job changes state
only when somebody cancels it; a step that keeps failing pauses it (`patience`).
Every wait is bounded: a round by its deadline and a limited number of extensions, waiting for clients by join_timeout.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhft.job import JobSpec
from fedhft.records import JobStatus, Phase, RoundHead
from fedhft.rounds.attendance import needed


@dataclass(frozen=True)
class Situation:
    """Everything a decision looks at. Times are the store's clock, milliseconds."""

    spec: JobSpec
    status: JobStatus
    created_ms: int
    round: RoundHead | None
    accepted: int
    """Updates (or evaluation reports) recorded for the current round."""
    live: int
    """Joined clients heard from within client_timeout."""
    joined: int
    watched_since_ms: int = 0
    """When this coordinator began to watch: time without a coordinator does not count as silence."""
    paused: bool = False
    reason: str = ""
    """Why the job is where it is, as the store has it."""
    stop: str = ""
    """Why no more rounds should open although some are left (see `best`); empty while they should."""
    short_since_ms: int | None = None
    """Since when this coordinator has seen fewer live clients than wanted; None while there are enough."""

    @property
    def wanted(self) -> int:
        """How many live clients a round should open with."""
        return min(self.spec.rounds.min_clients, max(self.joined, 1))


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until_ms`, unless something arrives."""

    until_ms: int


@dataclass(frozen=True)
class Start:
    """Enough clients have joined: waiting -> running."""


@dataclass(frozen=True)
class OpenRound:
    """Open a round (or the final evaluation)."""

    number: int
    evaluation: bool


@dataclass(frozen=True)
class Fold:
    """Close the round: pin its updates, fold, publish. Repeatable."""

    number: int


@dataclass(frozen=True)
class Extend:
    """Wait until another deadline: the last one passed without quorum, or (not counted) the clock was set back."""

    number: int
    deadline_ms: int
    counted: bool = True


@dataclass(frozen=True)
class Evaluate:
    """The last round is published: running -> evaluating. reason: why it is the last, if not because all are done."""

    reason: str = ""


@dataclass(frozen=True)
class Complete:
    """All done. reason: why earlier than planned, if so."""

    reason: str = ""


@dataclass(frozen=True)
class Fail:
    """The job cannot go on."""

    reason: str


@dataclass(frozen=True)
class Over:
    """The job has ended; nothing is left to do."""


Decision = Wait | Start | OpenRound | Fold | Extend | Evaluate | Complete | Fail | Over


_LONGEST_PAUSE_MS = 60_000
"""How often a paused job is looked at although nobody resumed it."""


def decide(situation: Situation, now_ms: int) -> Decision:
    """The next thing to do. Pure: equal arguments give equal decisions."""
    if situation.status.over:
        return Over()
    if situation.paused:
        return Wait(now_ms + _LONGEST_PAUSE_MS)
    if situation.status is JobStatus.WAITING:
        return _wait_for_clients(situation, now_ms)
    current = situation.round
    if current is not None and current.phase is Phase.FOLDING:
        return Fold(current.number)
    if current is not None and current.phase is Phase.COLLECTING:
        return _collect(situation, current, now_ms)
    return _after_published(situation, current, now_ms)


def _wait_for_clients(situation: Situation, now_ms: int) -> Decision:
    rules = situation.spec.rounds
    if situation.live >= rules.min_clients:
        return Start()
    created_ms = min(situation.created_ms, now_ms)  # later than now when the store's clock was set back
    give_up = max(created_ms, situation.watched_since_ms) + _ms(rules.join_timeout)
    if now_ms >= give_up:
        return Fail(
            f"{situation.live} of rounds.min_clients = {rules.min_clients} clients joined within rounds.join_timeout = "
            f"{rules.join_timeout:g} s; start more agents or lower rounds.min_clients"
        )
    return Wait(give_up)


def _collect(situation: Situation, current: RoundHead, now_ms: int) -> Decision:
    if situation.accepted >= current.target:
        return Fold(current.number)
    rules = situation.spec.rounds
    if current.deadline_ms > now_ms + _ms(rules.deadline):  # the clock was set back
        return Extend(current.number, now_ms + _ms(rules.deadline), counted=False)
    if now_ms < current.deadline_ms:
        return Wait(current.deadline_ms)
    if situation.accepted >= needed(rules, current) or current.evaluation:
        return Fold(current.number)
    if current.extensions < rules.extensions:
        return Extend(current.number, now_ms + _ms(rules.deadline))
    return Fail(
        f"round {current.number}: {situation.accepted} of {current.asked} participants delivered, "
        f"{needed(rules, current)} needed, after {current.extensions} extensions of rounds.deadline = "
        f"{rules.deadline:g} s; lower rounds.quorum or lengthen rounds.deadline"
    )


def after_setting_aside(spec: JobSpec, current: RoundHead, left: int, now_ms: int) -> Extend | Fail | None:
    """What becomes of a round with `left` usable updates: None to publish it, else collect it again or give up."""
    rules = spec.rounds
    if left >= needed(rules, current):
        return None
    if current.extensions < rules.extensions:
        return Extend(current.number, now_ms + _ms(rules.deadline))
    return Fail(
        f"round {current.number}: {left} usable updates, {needed(rules, current)} needed, after {current.extensions} "
        "extensions of rounds.deadline; the others were set aside, the aggregator's log says why"
    )


def _after_published(situation: Situation, current: RoundHead | None, now_ms: int) -> Decision:
    spec = situation.spec
    done = 0 if current is None else current.number
    if situation.status is JobStatus.EVALUATING:
        if current is not None and current.evaluation:
            return Complete(situation.reason)
        nobody: Decision = Complete(situation.reason)
        return _open_or_wait(situation, OpenRound(done + 1, evaluation=True), nobody, now_ms)
    if done >= spec.rounds.total or situation.stop:
        early = situation.stop if done < spec.rounds.total else ""
        return Evaluate(early) if spec.evaluation.final else Complete(early)
    nobody = Fail(
        f"no client was heard from for rounds.join_timeout = {spec.rounds.join_timeout:g} s; "
        "check the agents' logs and their connection to the server"
    )
    return _open_or_wait(situation, OpenRound(done + 1, evaluation=False), nobody, now_ms)


def _open_or_wait(situation: Situation, opening: OpenRound, nobody: Decision, now_ms: int) -> Decision:
    """Open at once with enough clients; with fewer after client_timeout (some may be on their way back)."""
    if situation.live >= situation.wanted:
        return opening
    rules = situation.spec.rounds
    since = now_ms if situation.short_since_ms is None else situation.short_since_ms
    if situation.live > 0:
        patience = since + _ms(rules.client_timeout)
        return opening if now_ms >= patience else Wait(patience)
    give_up = since + _ms(rules.join_timeout)
    return nobody if now_ms >= give_up else Wait(give_up)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
