"""A federation's partitioned data: which client has which rows, and where they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhft.datasets.examples import Example


@dataclass(frozen=True)
class ClientRows:
    """One client's rows. group: its hidden group, which the federation is never told."""

    client: str
    group: int
    train: tuple[Example, ...]
    holdout: tuple[Example, ...]


@dataclass(frozen=True)
class ClientFiles:
    """Where one client's rows were written."""

    client: str
    train: Path
    holdout: Path
    shared: Path

    def absolute(self) -> ClientFiles:
        """The same, for processes with another working directory."""
        return ClientFiles(self.client, self.train.absolute(), self.holdout.absolute(), self.shared.absolute())


@dataclass(frozen=True)
class FederatedData:
    """All data of a demo's agents. The clients' rows and the shared validation rows are disjoint.

    labels: names in class order; empty where labels are plain numbers.
    shared: the common validation rows as each group labels them (one entry per group; texts and order are the same).
    """

    name: str
    labels: tuple[str, ...]
    clients: tuple[ClientRows, ...]
    shared: tuple[tuple[Example, ...], ...]
    has_groups: bool

    @property
    def has_pairs(self) -> bool:
        """Whether rows carry a second text."""
        return any(row.text_pair is not None for row in self.clients[0].train)

    @property
    def groups(self) -> tuple[int, ...]:
        """Hidden group of each client."""
        return tuple(client.group for client in self.clients)

    def majority(self) -> float:
        """Majority-class baseline: mean over clients of the accuracy of always answering the client's most frequent
        training label.
        """
        scores = []
        for client in self.clients:
            labels = [row.class_index for row in client.train]
            top = max(sorted(set(labels)), key=labels.count)
            scores.append(sum(row.class_index == top for row in client.holdout) / len(client.holdout))
        return sum(scores) / len(scores)

    def write(self, folder: Path) -> tuple[ClientFiles, ...]:
        """Write a folder per client and a shared file per group; returns each client's files.

        Classes are written by name: in a job whose names are numbers an index would be taken for one.
        """
        shared = []
        for group, rows in enumerate(self.shared):
            shared.append(folder / f"shared-{group}.jsonl")
            _write_rows(shared[-1], rows, self.labels)
        files = []
        for client in self.clients:
            own = ClientFiles(
                client.client,
                folder / client.client / "train.jsonl",
                folder / client.client / "holdout.jsonl",
                shared[client.group if len(shared) > 1 else 0],
            )
            _write_rows(own.train, client.train, self.labels)
            _write_rows(own.holdout, client.holdout, self.labels)
            files.append(own)
        return tuple(files)


def label_counts(rows: Sequence[Example], labels: int) -> list[int]:
    """Rows of each class."""
    counts = [0] * labels
    for row in rows:
        counts[int(row.class_index)] += 1
    return counts


def _write_rows(path: Path, rows: Iterable[Example], labels: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.to_json(labels) + "\n" for row in rows), encoding="utf-8")
