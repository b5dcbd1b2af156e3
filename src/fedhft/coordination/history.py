"""What the store keeps of a published round: its summary; after the final evaluation also every client's figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf import json_format

from fedhft.documents import parse_json
from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.records import Traffic
from fedhft.store.interface import Store
from fedhft.store.reading import reading
from fedhft.v1 import jobs_pb2

_LONGEST = 64 << 20


@dataclass(frozen=True)
class RoundHistory:
    """One entry of a job's history."""

    summary: jobs_pb2.RoundSummary
    results: tuple[jobs_pb2.ClientResult, ...] = ()
    """Final figures by client; only in the entry of the final evaluation."""
    evaluation: bool = False
    earlier_traffic: Mapping[str, Traffic] = field(default_factory=dict)
    """Byte counters of all clients; earlier releases, which had no key for them, kept them in every entry."""

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps(
            {
                "summary": json_format.MessageToDict(self.summary, preserving_proto_field_name=True),
                "results": [json_format.MessageToDict(r, preserving_proto_field_name=True) for r in self.results],
                "evaluation": self.evaluation,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> RoundHistory:
        """Inverse of to_json. Raises FedhftError(DAMAGED_RECORD)."""
        with reading("an entry of a job's history"):
            raw = parse_json(text, "an entry of a job's history", ErrorCode.DAMAGED_RECORD, most_bytes=_LONGEST)
            return cls(
                summary=json_format.ParseDict(raw["summary"], jobs_pb2.RoundSummary()),
                results=tuple(json_format.ParseDict(r, jobs_pb2.ClientResult()) for r in raw["results"]),
                evaluation=bool(raw["evaluation"]),
                earlier_traffic={client: (t[0], t[1], t[2], t[3]) for client, t in raw.get("traffic", {}).items()},
            )


async def last_entry(store: Store, job: JobId) -> RoundHistory | None:
    """The entry of the round that was published last. Raises FedhftError(DAMAGED_RECORD)."""
    entries = (await store.history(job, -1)).entries
    return RoundHistory.from_json(entries[0]) if entries else None


async def best_so_far(store: Store, job: JobId) -> jobs_pb2.BestVersion | None:
    """The best version as of the round that was published last. Raises FedhftError(DAMAGED_RECORD)."""
    return best_of(await last_entry(store, job))


def best_of(entry: RoundHistory | None) -> jobs_pb2.BestVersion | None:
    """The best version as of this entry; None where none was scored, and in entries of earlier releases."""
    return entry.summary.best if entry is not None and entry.summary.HasField("best") else None
