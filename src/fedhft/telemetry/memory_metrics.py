"""Series about clients' memory; a part of `metrics`, where they are read and used."""

from __future__ import annotations

from fedhft.telemetry.registry import AGENT, AGGREGATOR, counter, gauge, histogram

_MEMORY_BUCKETS = tuple(float(2**power) for power in range(26, 38))
"""64 MiB to 128 GiB."""

PLANS_TOO_LARGE = counter(
    "fedhft_plans_too_large",
    "Plans that clients declined because they do not fit their memory, by tier; they get a smaller one if there is.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
CLIENT_PEAK_MEMORY_BYTES = histogram(
    "fedhft_client_peak_memory_bytes",
    "Peak resident set of agents, one observation per report.",
    ["federation", "tier"],
    buckets=_MEMORY_BUCKETS,
    by=AGGREGATOR,
)
CLIENT_PREDICTED_MEMORY_BYTES = histogram(
    "fedhft_client_predicted_memory_bytes",
    "Peak resident set that agents with a budget of memory foretold for their plans, one observation per report.",
    ["federation", "tier"],
    buckets=_MEMORY_BUCKETS,
    by=AGGREGATOR,
)
AGENT_PLANS_TOO_LARGE = counter(
    "fedhft_agent_plans_too_large", "Plans that this agent declined because they do not fit its memory.", by=AGENT
)
AGENT_PREDICTED_MEMORY_BYTES = gauge(
    "fedhft_agent_predicted_memory_bytes",
    "Peak resident set that this agent foretells for the plan it carries out; 0 without a budget of memory.",
    by=AGENT,
)
