"""A client's rows, encoded: what it trains on, and what it scores in a round and in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedhft import seeds
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.training.batches import EncodedRows, padded_tokens, scoring_batches
from fedhft.v1 import federation_pb2 as pb

Encode = Callable[[Sequence[Example]], EncodedRows]


class ClientRows:
    """The rows of one client in one job. train, holdout: whole; sample: the held-out rows scored in every round.

    encode: for rows that are scored; those to train on are given.
    """

    def __init__(self, spec: JobSpec, data: ClientData, train: EncodedRows, encode: Encode) -> None:
        self._spec = spec
        self._data = data
        self._encode = encode
        self._shards: dict[tuple[int, int, bool], EncodedRows] = {}
        self.train = train
        self.holdout = encode(data.holdout)
        self.sample = self._drawn(self.holdout)

    @property
    def longest(self) -> EncodedRows:
        """The rows of which the longest decides what passes take."""
        return max((rows for rows in (self.train, self.holdout) if len(rows)), key=lambda rows: rows.lengths.max())

    @property
    def most_scored(self) -> int:
        """Most rows that are scored at a time."""
        return max(len(self.holdout), len(self._data.shared or ()))

    def scored(self, evaluate: bool, shard: pb.Shard, *, once: bool = False) -> int:
        """Rows that a training task scores: the holdout before and after (once: each row once), and a shard of the
        common split.
        """
        shared = len(self.shard(shard, whole=False)) if shard.count else 0
        return ((1 if once else 2) * len(self.sample) if evaluate else 0) + shared

    def scored_about(self) -> float:
        """Rows of `scored` before any task has told the shard, where as many clients take part as a job begins with."""
        if not self._spec.evaluation.every:
            return 0.0
        shared = len(self._data.shared or ()) / self._spec.rounds.min_clients
        return 2 * len(self.sample) + min(shared, self._spec.evaluation.rows or shared)

    def scored_tokens_about(self) -> float:
        """Tokens of the rows of `scored_about`, with padding, if all are as long as those that are known."""
        lengths = (self.sample if len(self.sample) else self.train).lengths
        tokens = sum(padded_tokens(lengths, batch) for batch in scoring_batches(lengths))
        return self.scored_about() * tokens / (len(self.sample) or len(self._data.train))  # packed rows are fewer

    def of_task(self, personal: bool, shard: pb.Shard, *, whole: bool = True) -> list[EncodedRows]:
        """All rows that a task needs. whole: all that are scored in the end, not only those scored in a round."""
        found = [self.train, self.holdout if whole else self.sample] if personal else [self.train]
        return [*found, self.shard(shard, whole=whole)] if shard.count else found

    def shard(self, shard: pb.Shard, *, whole: bool = True) -> EncodedRows:
        """Rows r of the shared split with r % count == index, tokenised on first use; whole: see `of_task`."""
        place = (int(shard.index), int(shard.count), whole)
        if place not in self._shards:
            share = self._encode((self._data.shared or ())[place[0] :: place[1]])
            self._shards = {place: share if whole else self._drawn(share)}
        return self._shards[place]

    def _drawn(self, rows: EncodedRows) -> EncodedRows:
        """The rows scored in every round: all, or `evaluation.rows` of them, the same ones from the same rows."""
        most = self._spec.evaluation.rows
        if not 0 < most < len(rows):
            return rows
        drawn = np.argsort(seeds.integers(seeds.seed_of("scored rows", self._spec.seed), len(rows)))[:most]
        return rows.take(np.sort(drawn))
