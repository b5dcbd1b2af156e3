"""Whether an agent has a job's whole base model in memory, or only the layers in training."""

from __future__ import annotations

from fedhft.planning.memory import VALUE_BYTES, streams
from fedhft_agent.settings import AgentSettings


def streams_model(settings: AgentSettings, stored_values: int) -> bool:
    """Whether the model is to be read layer by layer. stored_values: of its files.

    Without a cache every batch would read all layers, so then it is loaded whole.
    """
    cached = settings.cache_folder is not None and settings.cache_size > 0
    return cached and streams(VALUE_BYTES * stored_values, settings.memory)
