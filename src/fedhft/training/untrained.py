"""Clients that train nothing, for studies of plans: how long rounds take, who waits, and what moves.

Everything else is as ever: tasks, rows chosen, updates of the size that trained ones have, folds, versions. Values are
drawn at random, so nothing is learnt and nothing is scored; device profiles say how long it would have taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedhft import seeds
from fedhft.adapter import RowIndex, TensorKey
from fedhft.plan import AdapterPlan
from fedhft.training import masks
from fedhft.training.importance import Importance
from fedhft.training.learner import TrainingReport
from fedhft.training.worker import ClientWorker
from fedhft.v1 import federation_pb2 as pb

_SPREAD = 1e-3
"""Standard deviation of what is added to every value: quantised like a trained update, and far from overflowing."""


class UntrainedWorker(ClientWorker):
    """A client whose local training is a random step, in no time."""

    def _train_locally(
        self, task: pb.TrainTask | pb.EvaluateTask, plan: AdapterPlan, should_stop: Callable[[], bool]
    ) -> tuple[TrainingReport, dict[TensorKey, RowIndex | None], Importance]:
        rows = masks.choose_rows(self._state.rows, self._network, plan, self.spec, task.seed)
        random = torch.Generator().manual_seed(seeds.seed_of("untrained", task.seed) >> 1)
        with torch.no_grad(), self._network.trainable(plan, rows, None) as parameters:
            for parameter in parameters:
                step = torch.randn(parameter.shape, generator=random)
                parameter.add_((_SPREAD * step).to(parameter.device, parameter.dtype))
        return TrainingReport(self.steps(plan), 0.0, 0.0), rows, Importance()

    def _scores(
        self,
        moment: pb.Score.Moment.ValueType,
        personal: bool,
        shard: pb.Shard | None,
        view: pb.Score.View.ValueType = pb.Score.VIEW_OWN,
        *,
        whole: bool = True,
    ) -> list[pb.Score]:
        return []
