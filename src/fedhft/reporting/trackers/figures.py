"""What a round is shown as in a tracker: numbers by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from google.protobuf.descriptor import FieldDescriptor

from fedhft.v1 import jobs_pb2

_NUMBERS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32)
_NOT_FIGURES = frozenset({"round", "membership_version"})


class Tracker(Protocol):
    """Where figures go."""

    def write(self, round_number: int, figures: Mapping[str, float]) -> None:
        """Figures of a round. Raises FedhftError when they cannot be written."""

    def close(self, completed: bool) -> None:
        """No more figures come. completed: whether the job did."""


def figures_of(summary: jobs_pb2.RoundSummary) -> dict[str, float]:
    """Every finite number of a summary that was measured: `personal_before_mean`, `accuracy/shared_before`,
    `tier/small/peak_rss_bytes_max`.
    """
    found = _numbers(summary)
    for metric in summary.metrics:
        found |= {f"{metric.name}/{name}": value for name, value in _numbers(metric).items()}
    for tier in summary.tiers:
        found |= {f"tier/{tier.tier}/{name}": value for name, value in _numbers(tier).items()}
    return found


def _numbers(message: jobs_pb2.RoundSummary | jobs_pb2.MetricFigures | jobs_pb2.TierFigures) -> dict[str, float]:
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated or field.cpp_type not in _NUMBERS or field.name in _NOT_FIGURES:
            continue
        if field.has_presence and not message.HasField(field.name):  # type: ignore[arg-type]
            continue
        value = float(getattr(message, field.name))
        if math.isfinite(value):
            found[field.name] = value
    return found
