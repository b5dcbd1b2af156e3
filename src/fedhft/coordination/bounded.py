"""Whose part in a round was bounded: updates set aside, scaled down, or weighed less; as its summary tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhft.records import Outcome, OutcomeKind, RoundRecord
from fedhft.rounds.summary import MOST_NAMED
from fedhft.v1 import jobs_pb2

_LONGEST_REASON = 200


@dataclass(frozen=True)
class Bounded:
    """What became of updates that were not folded as they came."""

    aside: Mapping[str, str]
    """client -> why its update was left out."""
    clipped: Mapping[str, float]
    """client -> factor < 1 by which its update was scaled down."""

    opposed: Sequence[str]
    """Clients whose updates were left out because they point against the others'."""

    def outcomes(self, number: int) -> dict[str, Outcome]:
        """What to tell the clients whose updates round `number` did not fold as they were."""
        told = {
            client: Outcome(
                round=number,
                kind=OutcomeKind.CLIPPED,
                reason=f"scaled to {factor:.3g} of its size, the most that limits.clip allows",
                factor=factor,
            )
            for client, factor in self.clipped.items()
        }
        for client in self.opposed:
            reason = "left out: it points against the others' updates (limits.opposed)"
            told[client] = Outcome(round=number, kind=OutcomeKind.OPPOSED, reason=reason)
        for client, why in self.aside.items():
            told[client] = Outcome(round=number, kind=OutcomeKind.SET_ASIDE, reason=why[:_LONGEST_REASON])
        return told

    def tell(self, current: RoundRecord, summary: jobs_pb2.RoundSummary) -> None:
        """Fill in a round's summary: counts of all, names of some, those most bounded first."""
        summary.set_aside_count = len(self.aside)
        for client, reason in sorted(self.aside.items())[:MOST_NAMED]:
            summary.set_aside.add(client=client, reason=reason[:_LONGEST_REASON])
        summary.clipped_count = len(self.clipped)
        for client, factor in sorted(self.clipped.items(), key=lambda item: (item[1], item[0]))[:MOST_NAMED]:
            summary.clipped.add(client=client, factor=factor)
        capped = {
            client: part.weight / part.samples
            for client, part in current.participants.items()
            if part.weight < part.samples
        }
        summary.capped_count = len(capped)
        for client, factor in sorted(capped.items(), key=lambda item: (item[1], item[0]))[:MOST_NAMED]:
            summary.capped.add(client=client, factor=factor)
        summary.opposed_count = len(self.opposed)
        summary.opposed.extend(sorted(self.opposed)[:MOST_NAMED])
