"""ClientWorker: everything a client does that is not sockets. The agent and the simulation use it alike.

    apply(blobs) -> train(task) -> Draft -> [server acknowledges] -> commit(draft)

Nothing that a round changes (error feedback, row memory, a private adapter) is remembered before the
acknowledgement; a draft survives a restart, so accepted work is never repeated and unaccepted work never lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path

from fedhft.adapter import SHARED, AdapterSchema, Float32, MaskedDelta, RowIndex, TensorKey, cluster_scope
from fedhft.aggregation.mixture import mix
from fedhft.aggregation.versions import apply_delta, with_version
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine, MaskRule, Start
from fedhft.plan import AdapterPlan
from fedhft.telemetry.metrics import peak_memory_bytes
from fedhft.training import feedback, masks, signatures
from fedhft.training.base import LoadedBase
from fedhft.training.batches import EncodedRows, encode_rows
from fedhft.training.importance import Importance
from fedhft.training.learner import TrainingReport, probe, train
from fedhft.training.network import Network
from fedhft.training.scores import majority_label, score
from fedhft.training.state import Draft, StateFolder, WorkerState, spec_digest
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode, encode
from fedhft.wire.digest import digest_of

__all__ = ["ClientWorker", "Draft"]


class ClientWorker:
    """One client of one job. Not safe for concurrent use; several workers may share one LoadedBase in turn.

    state_dir: folder that survives restarts; None keeps everything in memory. Raises FedhftError(INVALID_ARGUMENT)
    when the folder belongs to another client, (INVALID_MODEL) when the job does not fit the model.
    """

    def __init__(
        self, spec: JobSpec, client: str, base: LoadedBase, data: ClientData, state_dir: Path | None = None
    ) -> None:
        self.spec = spec
        self.client = client
        self._base = base
        self._network = Network.on(base, spec)
        self._data = data
        # Models that take token types need not want them: GPT-2 would add an embedding that nobody trained.
        takes_types = "token_type_ids" in signature(base.model.forward).parameters
        self._with_types = takes_types and "token_type_ids" in base.tokenizer.model_input_names
        self._train = self._encode(data.train)
        self._holdout = self._encode(data.holdout)
        self._shards: dict[tuple[int, int], EncodedRows] = {}
        self._regression = spec.task.kind == "regression"
        self._majority = None if self._regression else majority_label(self._train.labels)
        self._folder = StateFolder(state_dir, spec.name, client, spec_digest(spec.canonical()))
        self._memory, self._draft = self._folder.read()

    # -- what the server is told

    @property
    def schema(self) -> AdapterSchema:
        """The schema this client built from its own model."""
        return self._network.schema

    @property
    def samples(self) -> int:
        """Training rows."""
        return len(self._train)

    @property
    def data_digest(self) -> str:
        """SHA-256 of the training rows, hex."""
        return self._data.digest

    @property
    def has_shared_validation(self) -> bool:
        """Whether this client can score the common validation split."""
        return bool(self._data.shared)

    def signature(self) -> tuple[float, ...]:
        """Anchor signature of the local data, unit norm; () where the method has none. Computed once per data."""
        if not signatures.wants_anchor(self.spec):
            return ()
        if self._memory.data_digest != self._data.digest or not self._memory.signature:
            found = signatures.anchor_signature(self._network, self._train, self.spec)
            self._memory = replace(self._memory, signature=found, data_digest=self._data.digest)
            self._folder.write_state(self._memory)
        return self._memory.signature

    # -- versions

    def held(self) -> list[tuple[str, int]]:
        """(scope, version) up to which each scope is complete here."""
        return sorted(self._memory.held.items())

    def apply(self, ref: adapter_pb2.BlobRef, data: bytes) -> None:
        """Add one fetched blob to the adapters held.

        Raises FedhftError: DIGEST_MISMATCH, or what the codec finds (MALFORMED_UPDATE, SCHEMA_MISMATCH, ...);
        nothing changes then.
        """
        digest = digest_of(data)
        if digest != ref.digest.hex() or len(data) != ref.size:
            raise FedhftError(
                ErrorCode.DIGEST_MISMATCH,
                f"blob of {ref.scope} version {ref.version}: got {len(data)} bytes with digest {digest[:12]}, "
                f"expected {ref.size} bytes with {ref.digest.hex()[:12]}; fetch it again",
            )
        blob = decode(data, self.schema, kind=ref.kind)
        if blob.scope != ref.scope or blob.version != ref.version:
            raise FedhftError(
                ErrorCode.MALFORMED_UPDATE,
                f"blob is of {blob.scope} version {blob.version}, the task says {ref.scope} version {ref.version}",
            )
        state = apply_delta(self._memory.state, blob)
        self._memory = replace(self._memory, state=state, held={**self._memory.held, ref.scope: int(ref.version)})

    # -- work

    def train(self, task: pb.TrainTask, should_stop: Callable[[], bool] = lambda: False) -> Draft:
        """Score, train, score, and code one round's update; the draft is on disk when this returns.

        Raises TrainingStopped when `should_stop` says so, FedhftError(NON_FINITE) when training diverges,
        (UPDATE_TOO_LARGE) when the server would refuse the update for its size.
        """
        plan = self._plan(task.plan)
        if task.round <= self._memory.round:
            self._start_over(task.view)
        self._stand_at(task.view, task.view.memberships)
        started = time.perf_counter()
        self._load(task.view.memberships, plan, task.round)
        scores = self._scores(pb.Score.MOMENT_BEFORE, task.evaluate, task.shared)
        before_seconds = time.perf_counter() - started
        report, rows, importance = self._train_locally(plan, task.round, task.learning_rate, task.seed, should_stop)
        started = time.perf_counter()
        scores += self._scores(pb.Score.MOMENT_AFTER, task.evaluate, None)
        evaluate_seconds = before_seconds + time.perf_counter() - started
        delta = self._network.delta(plan, rows)
        if not delta.finite():
            raise FedhftError.field(
                ErrorCode.NON_FINITE, "training.learning_rate", task.learning_rate, "the trained values are not finite",
                "lower the learning rate",
            )  # fmt: skip
        after = self._after_training(task, delta, rows, importance)
        blob, after = self._coded(task, delta, after)
        draft = Draft(
            round=int(task.round),
            base_version=int(task.view.version),
            blob=blob,
            digest=digest_of(blob) if blob else "",
            samples=self.samples,
            scores=scores,
            measurements=_measurements(report, evaluate_seconds, 4 * delta.values if blob else 0),
            signature=self._update_signature(delta),
            after=after,
        )
        self._folder.write_draft(draft)
        self._draft = draft
        return draft

    def evaluate(
        self, task: pb.EvaluateTask, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[list[pb.Score], pb.Measurements]:
        """Score the view before and after one more local training; nothing is remembered.

        Before: personal rows and the shared shard with the own mixture, the mass-weighted shard with the
        federation's. After: own only.
        """
        plan = self._plan(task.plan)
        wanted = [a or b for a, b in _zip_longest(task.view.memberships, task.view.mass_memberships)]
        self._stand_at(task.view, wanted)
        started = time.perf_counter()
        scores: list[pb.Score] = []
        shares = self.spec.method.combine is not Combine.NONE  # without sharing there is no mixture of the federation
        if shares and task.shared_mass_weighted.count and task.view.mass_memberships:
            self._load(task.view.mass_memberships, plan, task.round)
            scores += self._scores(
                pb.Score.MOMENT_BEFORE, False, task.shared_mass_weighted, pb.Score.VIEW_MASS_WEIGHTED
            )
        self._load(task.view.memberships, plan, task.round)
        scores += self._scores(pb.Score.MOMENT_BEFORE, True, task.shared)
        before_seconds = time.perf_counter() - started
        report, _, _ = self._train_locally(plan, task.round, task.learning_rate, task.seed, should_stop)
        started = time.perf_counter()
        scores += self._scores(pb.Score.MOMENT_AFTER, True, task.shared)
        return scores, _measurements(report, before_seconds + time.perf_counter() - started, 0)

    # -- acknowledgement

    def pending(self) -> Draft | None:
        """A trained draft that was neither committed nor abandoned, also from before a restart."""
        return self._draft

    def commit(self, draft: Draft) -> None:
        """The server has the update: what it taught becomes this worker's memory. Idempotent."""
        if draft.round > self._memory.round:
            self._memory = replace(draft.after, state=self._memory.state, held=self._memory.held)
            self._folder.write_state(self._memory)
        self._forget_draft(draft)

    def abandon(self, draft: Draft) -> None:
        """The server will never take this update: forget it, and what it would have carried over."""
        self._forget_draft(draft)

    def _forget_draft(self, draft: Draft) -> None:
        if self._draft is not None and self._draft.round == draft.round:
            self._folder.drop_draft()
            self._draft = None

    # -- steps of a round

    def _plan(self, plan: adapter_pb2.AdapterPlan) -> AdapterPlan:
        layers = self.schema.layers
        if not 0 <= plan.depth <= layers or not 0 < plan.density <= 1 or not plan.epochs > 0:
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT,
                f"plan: depth {plan.depth} of {layers} layers, density {plan.density}, epochs {plan.epochs} "
                "cannot be trained; the server must send a depth within the model",
            )
        return replace(AdapterPlan.of(plan), depth=plan.depth or layers)

    def _stand_at(self, view: pb.ViewSource, weights: Sequence[float]) -> None:
        """Note that every scope in use is complete at the view's version: all its blobs have been applied."""
        memory = self._memory
        clusters = max(1, len(view.memberships))
        version = int(view.version)
        scopes = [SHARED, *(cluster_scope(j) for j, weight in enumerate(weights) if weight > 0)]
        ahead = [scope for scope in scopes if memory.held.get(scope, 0) > version]
        if ahead:
            self._start_over(view)
            memory = self._memory
        held = {**memory.held, **dict.fromkeys(scopes, version)}
        self._memory = replace(memory, state=with_version(memory.state, version, clusters), held=held)

    def _start_over(self, view: pb.ViewSource) -> None:
        """Forget everything but the signature: the server counts from earlier, so it runs a job of this name anew.

        Raises FedhftError(STALE_VERSION) unless the view is the job's start: its blobs were listed for what was held.
        """
        memory = self._memory
        self._memory = WorkerState(signature=memory.signature, data_digest=memory.data_digest)
        self._folder.write_state(self._memory)
        if view.version:
            raise FedhftError(
                ErrorCode.STALE_VERSION,
                f"view of version {view.version}: the state kept here is of an earlier run of job {self.spec.name}; "
                "it was dropped, ask for the task again",
            )

    def _load(self, memberships: Sequence[float], plan: AdapterPlan, round_number: int) -> None:
        self._network.load(self._view(tuple(memberships) or (1.0,)), plan.depth, int(round_number))

    def _view(self, memberships: tuple[float, ...]) -> Mapping[TensorKey, Float32]:
        if self.spec.method.combine is Combine.NONE:
            return self._memory.own
        state = self._memory.state
        if (
            memberships == (1.0,) and state.clusters == 1
        ):  # one cluster is its own mixture; spares a copy of a whole model
            return {**state.scope(SHARED), **state.scope(cluster_scope(0))}
        return mix(state, memberships)

    def _train_locally(
        self, plan: AdapterPlan, round_number: int, learning_rate: float, seed: int, should_stop: Callable[[], bool]
    ) -> tuple[TrainingReport, dict[TensorKey, RowIndex | None], Importance]:
        known = dict(self._memory.rows)
        settings = self.spec.training
        if masks.unscored(known, self._network, plan, self.spec):
            first = Importance()
            probe(
                self._network, self._train, plan, settings.batch_size, regression=self._regression, seed=seed,
                importance=first, batches=masks.PROBE_BATCHES,
            )  # fmt: skip
            known = masks.remembered(known, first.means(masks.gradient_divisors(self._network, self.spec)), {}, 0.0, 0)
        rows = masks.choose_rows(known, self._network, plan, self.spec, seed)
        importance = Importance()
        report = train(
            self._network, self._train, plan, rows, settings,
            regression=self._regression, learning_rate=learning_rate, seed=seed,
            importance=importance if self.spec.method.mask is MaskRule.GRADIENT else None, should_stop=should_stop,
        )  # fmt: skip
        return report, rows, importance

    def _after_training(
        self, task: pb.TrainTask, delta: MaskedDelta, rows: Mapping[TensorKey, RowIndex | None], importance: Importance
    ) -> WorkerState:
        memory = self._memory
        seen = masks.importances(importance, delta, memory.rows, self._network, self.spec)
        number = int(task.round)
        after = replace(
            memory, round=number, rows=masks.remembered(memory.rows, seen, rows, self.spec.mask.smoothing, number)
        )
        if self.spec.method.combine is Combine.NONE:
            own = dict(memory.own)
            for key, matrix in delta:
                own[key] = own[key] + matrix.dense() if key in own else matrix.dense().copy()
            after = replace(after, own=own)
        return after

    def _coded(self, task: pb.TrainTask, delta: MaskedDelta, after: WorkerState) -> tuple[bytes, WorkerState]:
        """The update as bytes, and the memory with the error that coding left behind."""
        spec = self.spec
        if spec.method.combine is Combine.NONE:
            return b"", after
        carries = feedback.carries_error(spec)
        decay = spec.wire.error_feedback_decay
        wanted = feedback.with_carried(delta, self._memory.carried, decay) if carries else delta
        rounding = (
            int(task.seed) if spec.method.start is Start.RESTART else None
        )  # stochastic where no error is carried
        blob = encode(
            wanted, self.schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding=spec.wire.up, group=spec.wire.group,
            levels=spec.wire.levels, version=int(task.view.version), rounding_seed=rounding,
        )  # fmt: skip
        if 0 < task.max_update_bytes < len(blob):
            raise FedhftError.field(
                ErrorCode.UPDATE_TOO_LARGE, "limits.update_bytes", task.max_update_bytes,
                f"the update takes {len(blob)} bytes", "raise the limit or lower the plan's density or depth",
            )  # fmt: skip
        if carries:
            sent = decode(blob, self.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
            after = replace(after, carried=feedback.carried_after(self._memory.carried, wanted, sent, decay))
        return blob, after

    def _update_signature(self, delta: MaskedDelta) -> tuple[float, ...]:
        return (
            signatures.update_signature(delta, self._network, self.spec) if signatures.wants_update(self.spec) else ()
        )

    # -- scoring

    def _scores(
        self,
        moment: pb.Score.Moment.ValueType,
        personal: bool,
        shard: pb.Shard | None,
        view: pb.Score.View.ValueType = pb.Score.VIEW_OWN,
    ) -> list[pb.Score]:
        wanted: list[tuple[EncodedRows, pb.Score.Split.ValueType]] = []
        if personal:
            wanted.append((self._holdout, pb.Score.SPLIT_PERSONAL))
        if shard is not None and shard.count:
            wanted.append((self._shard(shard), pb.Score.SPLIT_SHARED))
        return [
            score(
                self._network, rows, regression=self._regression, majority_label=self._majority,
                split=split, moment=moment, view=view,
            )
            for rows, split in wanted
            if len(rows)
        ]  # fmt: skip

    def _shard(self, shard: pb.Shard) -> EncodedRows:
        """Rows r of the shared split with r % count == index, tokenised when first asked for."""
        place = (int(shard.index), int(shard.count))
        if place not in self._shards:
            self._shards = {place: self._encode((self._data.shared or ())[place[0] :: place[1]])}
        return self._shards[place]

    def _encode(self, rows: Sequence[Example]) -> EncodedRows:
        return encode_rows(self._base.tokenizer, rows, self.spec.model.max_length, self._with_types)


def _measurements(report: TrainingReport, evaluate_seconds: float, raw_bytes: int) -> pb.Measurements:
    return pb.Measurements(
        train_seconds=report.seconds,
        evaluate_seconds=evaluate_seconds,
        steps=report.steps,
        peak_rss_bytes=peak_memory_bytes(),
        raw_bytes_sent=raw_bytes,
    )


def _zip_longest(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    width = max(len(a), len(b))
    return list(zip([*a, *[0.0] * (width - len(a))], [*b, *[0.0] * (width - len(b))], strict=True))
