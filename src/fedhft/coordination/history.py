"""What the store keeps of a published round: its summary, and each client's traffic so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from google.protobuf import json_format

from fedhft.rounds.summary import Traffic
from fedhft.v1 import jobs_pb2


@dataclass(frozen=True)
class RoundHistory:
    """One entry of a job's history."""

    summary: jobs_pb2.RoundSummary
    traffic: dict[str, Traffic] = field(default_factory=dict)
    results: tuple[jobs_pb2.ClientResult, ...] = ()
    """Final figures by client; only in the entry of the final evaluation."""
    evaluation: bool = False

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps(
            {
                "summary": json_format.MessageToDict(self.summary, preserving_proto_field_name=True),
                "traffic": self.traffic,
                "results": [json_format.MessageToDict(r, preserving_proto_field_name=True) for r in self.results],
                "evaluation": self.evaluation,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> RoundHistory:
        """Inverse of to_json."""
        raw = json.loads(text)
        return cls(
            summary=json_format.ParseDict(raw["summary"], jobs_pb2.RoundSummary()),
            traffic={client: (t[0], t[1], t[2], t[3]) for client, t in raw["traffic"].items()},
            results=tuple(json_format.ParseDict(r, jobs_pb2.ClientResult()) for r in raw["results"]),
            evaluation=bool(raw["evaluation"]),
        )
