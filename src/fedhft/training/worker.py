"""ClientWorker: everything a client does apart from sockets. Both the agent and the simulation use it.

    apply(blobs) -> train(task) -> Draft -> [server acknowledges] -> commit(draft)

What a round changes (error feedback, row states, a private adapter) is kept only after the acknowledgement; a draft
survives a restart, so accepted work is never repeated and unaccepted work never lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from fedhft.adapter import AdapterSchema, MaskedDelta, RowIndex, TensorKey
from fedhft.bands import within
from fedhft.datasets.client_data import ClientData
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import MaskRule
from fedhft.plan import AdapterPlan, sent_parts, steps_of
from fedhft.planning.peak import Unfit
from fedhft.telemetry.collectors import peak_memory_bytes
from fedhft.training import masks, signatures
from fedhft.training.base import LoadedBase
from fedhft.training.batches import EncodedRows, mean_tokens
from fedhft.training.client_rows import ClientRows
from fedhft.training.device.state import forget_peak, peak_bytes
from fedhft.training.held import complete_at, held_bands, is_ahead, start_of, with_blob
from fedhft.training.importance import Importance
from fedhft.training.learner import TrainingReport, probe, train
from fedhft.training.memory.arrangements import Arrangements
from fedhft.training.network import Network
from fedhft.training.pruning import first_columns, kept_columns, tail_norm
from fedhft.training.scores import score
from fedhft.training.state import Draft, StateFolder, WorkerState, spec_digest
from fedhft.training.update import code_update
from fedhft.v1 import adapter_pb2, capacity_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.digest import digest_of

__all__ = ["ClientWorker", "Draft"]

TRIAL_DEPTH = 2
"""Layers, counted from the output, that a trial trains."""
TRIAL_BATCHES = 3
MOST_EPOCHS = 100
"""What a job can ask for; a server that sends more in a task is not obeyed."""


class ClientWorker:
    """One client of one job. Not safe for concurrent use; several workers may share one LoadedBase in turn.

    state_dir: folder that survives restarts; None keeps everything in memory. memory: bytes that the process may use,
    0: any. Raises FedhftError(INVALID_ARGUMENT) when the folder belongs to another client, (INVALID_MODEL) when the job
    does not fit the model.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: str,
        base: LoadedBase,
        data: ClientData,
        state_dir: Path | None = None,
        memory: int = 0,
    ) -> None:
        self.spec = spec
        self.client = client
        self._network = network = Network.on(base, spec)
        self._data = data
        self._rows = ClientRows(spec, data, network.encode(data.train, training=True), network.encode)
        self._train, self._holdout = self._rows.train, self._rows.holdout
        batch_size = min(spec.training.batch_size, len(self._train))
        self._batch_tokens = mean_tokens(self._train.lengths, spec.training.batch_size)
        self._arrangements = Arrangements(network, self._rows, batch_size, memory)
        self._folder = StateFolder(state_dir, spec.name, client, spec_digest(spec.canonical()))
        self._state, self._draft = self._folder.read()

    # -- what the server is told

    @property
    def schema(self) -> AdapterSchema:
        """The schema this client built from its own model."""
        return self._network.schema

    @property
    def samples(self) -> int:
        """Training rows."""
        return len(self._data.train)

    @property
    def data_digest(self) -> str:
        """SHA-256 of the training rows, hex."""
        return self._data.digest

    @property
    def has_shared_validation(self) -> bool:
        """Whether this client can score the common validation split."""
        return bool(self._data.shared)

    def signature(self) -> signatures.AnchorSignature:
        """Anchor signature of the local data; empty if the method has none. Computed once per data set."""
        if not signatures.wants_anchor(self.spec):
            return signatures.AnchorSignature((), ())
        if self._state.data_digest != self._data.digest or not self._state.halves:
            self.fit(signatures.anchor_plan(self._network.schema))
            found = signatures.anchor_signature(self._network, self._train, self.spec)
            digest = self._data.digest
            self._state = replace(self._state, signature=found.whole, halves=found.halves, data_digest=digest)
            self._folder.write_state(self._state)
        return signatures.AnchorSignature(self._state.signature, self._state.halves)

    @property
    def keeps_frozen_layers(self) -> bool:
        """Whether frozen layers are run once per row, and what leaves them is kept."""
        return self._network.keeps_frozen_layers

    def trial(self) -> capacity_pb2.Durations:
        """How long passes take here: of the anchor signature where one was computed just now, else of a few batches."""
        rules, network = self.spec.training, self._network
        if not network.stopwatch.backward.layer_tokens:
            network.load({}, min(TRIAL_DEPTH, self.schema.layers), 0)
            plan = AdapterPlan("", network.depth, 1.0, 1.0, 0, train_a=True, train_b=True)
            probe(network, self._train, plan, rules, seed=0, importance=Importance(), batches=TRIAL_BATCHES)
        durations = network.stopwatch.take(self._batch_tokens)
        durations.keeps_frozen_layers = network.keeps_frozen_layers
        durations.scoring_batches = self._rows.scored_tokens_about() / self._batch_tokens
        return durations

    def plan(self, plan: adapter_pb2.AdapterPlan) -> AdapterPlan:
        """A task's plan as this client would train it: depth 0 means all layers, and columns
        that it gave up are not trained again.

        Raises FedhftError(INVALID_ARGUMENT) for a plan that cannot be trained.
        """
        layers = self.schema.layers
        if not 0 <= plan.depth <= layers or not 0 < plan.density <= 1 or not 0 < plan.epochs <= MOST_EPOCHS:
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT,
                f"plan: depth {plan.depth} of {layers} layers, density {plan.density}, epochs {plan.epochs} "
                f"cannot be trained; the server must send a depth within the model, and at most {MOST_EPOCHS} epochs",
            )
        ranks = [rank for rank in (plan.rank, self._state.rank) if rank]
        return replace(AdapterPlan.of(plan), depth=plan.depth or layers, rank=min(ranks, default=0))

    def fit(self, plan: AdapterPlan) -> Unfit | None:
        """Find out how to carry out a plan within the memory there is; None, or what it lacks."""
        return self._arrangements.fit(plan)

    @property
    def memory(self) -> int:
        """Bytes that the process may use; 0: any."""
        return self._arrangements.memory

    @property
    def predicted_peak(self) -> int:
        """Resident set that the plan in use will come to, bytes; 0 where there is no budget, or it does not fit."""
        return self._network.arrangement.resident

    @property
    def rows(self) -> ClientRows:
        """This client's rows, as tasks use them."""
        return self._rows

    def steps(self, plan: AdapterPlan) -> int:
        """Optimiser steps that a plan makes on this client's rows."""
        return steps_of(len(self._train), self.spec.training.batch_size, plan.epochs, plan.max_steps)

    # -- versions

    def held(self) -> list[tuple[str, int]]:
        """(scope, version) up to which each scope is complete here."""
        return sorted(self._state.held.items())

    def held_bands(self) -> list[adapter_pb2.HeldBand]:
        """What is held here of scopes whose layers are not all at the same version."""
        return held_bands(self._state)

    def apply(self, ref: adapter_pb2.BlobRef, data: bytes) -> None:
        """Add one fetched blob to the adapters held. Raises what `with_blob` raises, and then nothing has changed."""
        self._state = with_blob(self._state, self.schema, ref, data)

    # -- work

    def train(self, task: pb.TrainTask, should_stop: Callable[[], bool] = lambda: False) -> Draft:
        """Score, train, score again, and code one round's update; the draft is on disk when this returns, if it can be.

        Raises TrainingStopped when `should_stop` returns true, FedhftError(NON_FINITE) when training diverges,
        (UPDATE_TOO_LARGE) when the server would refuse the update for its size.
        """
        if task.round <= self._state.round:
            self._start_over(task.view)
        plan = self.plan(task.plan)
        self.fit(plan)
        begun = time.perf_counter()
        self._network.stopwatch.take(self._batch_tokens)  # the network is shared: what others did
        self._stand_at(task.view, task.view.memberships, plan)
        forget_peak(self._network.device)
        started = time.perf_counter()
        self._load(task.view.memberships, plan, task.round)
        self._network.prepare(self._rows.of_task(task.evaluate, task.shared, whole=False), should_stop)
        scores = self._scores(pb.Score.MOMENT_BEFORE, task.evaluate, task.shared, whole=False)
        kept = kept_columns(self.spec.training, self.schema, plan)
        tail = tail_norm(self._network, kept) if kept else 0.0
        before_seconds = time.perf_counter() - started
        report, rows, importance = self._train_locally(task, plan, should_stop)
        started = time.perf_counter()
        scores += self._scores(pb.Score.MOMENT_AFTER, task.evaluate, None, whole=False)
        evaluate_seconds = before_seconds + time.perf_counter() - started
        delta = self._network.delta(plan, rows)
        if not delta.finite():
            raise FedhftError.field(
                ErrorCode.NON_FINITE, "training.learning_rate", task.learning_rate, "the trained values are not finite",
                "lower the learning rate",
            )  # fmt: skip
        after = self._after_training(int(task.round), delta, rows, importance)
        if kept and tail_norm(self._network, kept) < tail:
            plan, delta, after = replace(plan, rank=kept), first_columns(delta, kept), replace(after, rank=kept)
        sent = MaskedDelta({key: matrix for key, matrix in delta if key.part in sent_parts(self.spec.method)})
        blob, carried = code_update(self.spec, self.schema, sent, self._state.carried, task, plan.rank)
        figures = self._measured(report, evaluate_seconds, sent.values)
        figures.durations.CopyFrom(self._durations(time.perf_counter() - begun))
        wants_signature = signatures.wants_update(self.spec)
        draft = Draft(
            round=int(task.round),
            base_version=int(task.view.version),
            blob=blob,
            digest=digest_of(blob) if blob else "",
            scores=scores,
            measurements=figures,
            signature=signatures.update_signature(delta, self._network, self.spec) if wants_signature else (),
            after=replace(after, carried=carried),
        )
        self._folder.write_draft(draft)
        self._draft = draft
        return draft

    def evaluate(
        self, task: pb.EvaluateTask, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[list[pb.Score], pb.Measurements]:
        """Score the view before and after one more local training; nothing is kept.

        Before: personal rows and the shared shard with the client's own mixture, and the mass-weighted shard with the
        mass-weighted mixture. After: with its own mixture only.
        """
        plan = self.plan(task.plan)
        self.fit(plan)
        own, mass = task.view.memberships, task.view.mass_memberships
        self._stand_at(task.view, [a or b for a, b in zip_longest(own, mass, fillvalue=0.0)], plan)
        forget_peak(self._network.device)
        started = time.perf_counter()
        scores: list[pb.Score] = []
        whole = self.spec.method.combine.makes_one_model  # without one there is no mass-weighted mixture
        if whole and task.shared_mass_weighted.count and mass:
            self._load(mass, plan, task.round)
            self._network.prepare([self._rows.shard(task.shared_mass_weighted)], should_stop)
            scores += self._scores(
                pb.Score.MOMENT_BEFORE, False, task.shared_mass_weighted, pb.Score.VIEW_MASS_WEIGHTED
            )
        self._load(own, plan, task.round)
        self._network.prepare(self._rows.of_task(True, task.shared), should_stop)
        scores += self._scores(pb.Score.MOMENT_BEFORE, True, task.shared)
        before_seconds = time.perf_counter() - started
        report, _, _ = self._train_locally(task, plan, should_stop)
        started = time.perf_counter()
        scores += self._scores(pb.Score.MOMENT_AFTER, True, task.shared)
        return scores, self._measured(report, before_seconds + time.perf_counter() - started)

    # -- acknowledgement

    def pending(self) -> Draft | None:
        """A trained draft that was neither committed nor abandoned, even one from before a restart."""
        return self._draft

    def commit(self, draft: Draft) -> None:
        """The server has the update: the state after it becomes this worker's state. Idempotent."""
        kept = True
        if draft.round > self._state.round:
            self._state = replace(draft.after.standing_where(self._state), outcome_seen=self.outcome_seen)
            kept = self._folder.write_state(self._state)
        if kept:
            self._forget_draft(draft)
        elif self._draft is not None and self._draft.round == draft.round:
            self._draft = None  # on disk it stays: after a restart it is delivered again, and then committed

    # -- what became of it

    @property
    def outcome_seen(self) -> int:
        """Round of the last outcome heard of; 0 for none."""
        return self._state.outcome_seen

    def hear(self, number: int, *, left_out: bool) -> bool:
        """The fold of round `number` did not take this client's update as it was; False when that is known already.

        Error feedback, row scores and ages stay as they are. The next round starts from a version without the update,
        so training moves that way again by itself; giving the values to the error feedback too would send them twice,
        and would undo what the server bounds on purpose. left_out: the update is not in the version, and its round may
        be asked for again, which is then no sign of another job of the same name.
        """
        state = self._state
        if number <= state.outcome_seen:
            return False
        again = left_out and number == state.round
        self._state = replace(state, outcome_seen=number, round=number - 1 if again else state.round)
        self._folder.write_state(self._state)
        return True

    def abandon(self, draft: Draft) -> None:
        """The server will never accept this update: forget it, and the state after it."""
        self._forget_draft(draft)

    def _forget_draft(self, draft: Draft) -> None:
        if self._draft is not None and self._draft.round == draft.round:
            self._folder.drop_draft()
            self._draft = None

    # -- steps of a round

    def _stand_at(self, view: pb.ViewSource, weights: Sequence[float], plan: AdapterPlan) -> None:
        if is_ahead(self._state, int(view.version), weights):
            self._start_over(view)
        self._state = complete_at(self._state, view, weights, self.schema, plan.depth)

    def _start_over(self, view: pb.ViewSource) -> None:
        """Forget everything but the signatures: the server is behind this state, so it runs a new job of the same name.

        Raises FedhftError(STALE_VERSION) unless the view is the job's start: the task lists blobs for the old state.
        """
        kept = self._state
        self._state = WorkerState(signature=kept.signature, halves=kept.halves, data_digest=kept.data_digest)
        self._folder.write_state(self._state)
        if view.version:
            raise FedhftError(
                ErrorCode.STALE_VERSION,
                f"view of version {view.version}: the state kept here was of an earlier job named {self.spec.name}; "
                "it was dropped; ask for the task again",
            )

    def _load(self, memberships: Sequence[float], plan: AdapterPlan, round_number: int) -> None:
        start = within(start_of(self._state, self.spec.method.combine, memberships), self.schema, plan.depth)
        self._network.load(start, plan.depth, int(round_number), plan.rank)

    def _train_locally(
        self, task: pb.TrainTask | pb.EvaluateTask, plan: AdapterPlan, should_stop: Callable[[], bool]
    ) -> tuple[TrainingReport, dict[TensorKey, RowIndex | None], Importance]:
        spec, network = self.spec, self._network
        known = masks.probed(self._state.rows, network, self._train, plan, spec, task.seed)
        rows = masks.choose_rows(known, network, plan, spec, task.seed)
        importance = Importance()
        report = train(
            network,
            self._train,
            plan,
            rows,
            spec.training,
            learning_rate=task.learning_rate,
            seed=task.seed,
            importance=importance if spec.method.mask is MaskRule.GRADIENT else None,
            should_stop=should_stop,
        )
        return report, rows, importance

    def _after_training(
        self, number: int, delta: MaskedDelta, rows: Mapping[TensorKey, RowIndex | None], importance: Importance
    ) -> WorkerState:
        """The state once round `number` is acknowledged, without the error that coding leaves."""
        state, spec = self._state, self.spec
        seen = masks.importances(importance, delta, state.rows, self._network, spec)
        known = masks.remembered(state.rows, seen, rows, spec.mask.smoothing, number)
        own = dict(state.own)
        for key, matrix in delta:
            if key.part not in sent_parts(spec.method):
                own[key] = own[key] + matrix.dense() if key in own else matrix.dense().copy()
        return replace(state, round=number, rows=known, own=own)

    def _durations(self, elapsed: float) -> capacity_pb2.Durations:
        """Where the seconds of a round went, bytes on the wire not yet counted."""
        durations = self._network.stopwatch.take(self._batch_tokens)
        durations.other_seconds = max(0.0, elapsed - (durations.forward_seconds + durations.backward_seconds))
        durations.keeps_frozen_layers = self._network.keeps_frozen_layers
        return durations

    # -- scoring

    def _scores(
        self,
        moment: pb.Score.Moment.ValueType,
        personal: bool,
        shard: pb.Shard | None,
        view: pb.Score.View.ValueType = pb.Score.VIEW_OWN,
        *,
        whole: bool = True,
    ) -> list[pb.Score]:
        wanted: list[tuple[EncodedRows, pb.Score.Split.ValueType]] = []
        if personal:
            wanted.append((self._holdout if whole else self._rows.sample, pb.Score.SPLIT_PERSONAL))
        if shard is not None and shard.count:
            wanted.append((self._rows.shard(shard, whole=whole), pb.Score.SPLIT_SHARED))
        return [
            score(self._network, rows, self._train.targets, split=split, moment=moment, view=view)
            for rows, split in wanted
            if len(rows)
        ]

    def _measured(self, report: TrainingReport, evaluate_seconds: float, sent_values: int = 0) -> pb.Measurements:
        return pb.Measurements(
            train_seconds=report.seconds,
            evaluate_seconds=evaluate_seconds,
            steps=report.steps,
            peak_rss_bytes=peak_memory_bytes(),
            peak_device_bytes=peak_bytes(self._network.device),
            predicted_peak_bytes=self.predicted_peak,
            raw_bytes_sent=4 * sent_values,
            model_bytes=4 * self._network.base_values if sent_values else 0,
        )
