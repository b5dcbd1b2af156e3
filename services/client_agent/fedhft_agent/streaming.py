"""Whether an agent has a job's whole base model in memory, or only the layers in training."""

from __future__ import annotations

from fedhft.job import JobSpec
from fedhft.planning.memory import VALUE_BYTES, streams
from fedhft.planning.tiers import depth_of, tier_of
from fedhft_agent.settings import AgentSettings


def streams_model(settings: AgentSettings, spec: JobSpec, stored_values: int) -> int:
    """Depth at which the model is to be read layer by layer; 0: it is loaded whole.

    stored_values: of the model's files. Without a cache every batch would read all layers, so then it is loaded whole.
    Raises FedhftError(PLAN_TOO_LARGE) when no tier of the job is small enough, (INVALID_ARGUMENT) for an unknown one.
    """
    if not settings.memory or settings.cache_folder is None or not settings.cache_size:
        return 0
    depth = depth_of(spec, tier_of(spec, settings.client, settings.memory, settings.tier))
    return depth if streams(VALUE_BYTES * stored_values, settings.memory, depth) else 0
