"""What an agent counts itself, where it can be scraped. `metrics` has the rules, and these series beside all others."""

from __future__ import annotations

from fedhft.telemetry.registry import AGENT, CALL_BUCKETS, CODES, counter, gauge, histogram, known

AGENT_UPDATES = counter(
    "fedhft_agent_updates",
    "Updates trained here, by outcome: accepted, repeated (the server had it already), abandoned (refused for good) or "
    "broken_off (the round ended before training did).",
    ["outcome"],
    by=AGENT,
)
known(AGENT_UPDATES, outcome=("accepted", "repeated", "abandoned", "broken_off"))
AGENT_UPDATES_BOUNDED = counter(
    "fedhft_agent_updates_bounded",
    "Accepted updates of this agent that a fold did not take as they were, as the server told it: set_aside (gone, "
    "damaged, or deadly), opposed (left out for pointing against the others') or clipped (scaled down).",
    ["outcome"],
    by=AGENT,
)
known(AGENT_UPDATES_BOUNDED, outcome=("set_aside", "opposed", "clipped"))
AGENT_STATE_FAULTS = counter(
    "fedhft_agent_state_faults",
    "State files that were damaged (moved aside, named in the log) or unwritten (no room on the disk, for instance).",
    ["fault"],
    by=AGENT,
)
known(AGENT_STATE_FAULTS, fault=("damaged", "unwritten"))
AGENT_PREFIX_ROWS = counter(
    "fedhft_agent_prefix_rows",
    "Rows whose frozen layers were passed, in training and scoring, by source: cache (read) or computed.",
    ["source"],
    by=AGENT,
)
known(AGENT_PREFIX_ROWS, source=("cache", "computed"))
AGENT_PREFIX_BYTES = gauge(
    "fedhft_agent_prefix_bytes", "Size of the cache of the frozen layers' outputs on this agent's disk.", by=AGENT
)
AGENT_PREFIX_FAULTS = counter(
    "fedhft_agent_prefix_faults",
    "What keeps the cache of frozen layers from use, by fault: damaged (rows, computed again), full, unwritten, busy "
    "(another agent has the folder) or different (this model's passes with and without it disagree).",
    ["fault"],
    by=AGENT,
)
known(AGENT_PREFIX_FAULTS, fault=("damaged", "full", "unwritten", "busy", "different"))
AGENT_JOBS_BLOCKED = gauge(
    "fedhft_agent_jobs_blocked",
    "Jobs on offer that this agent cannot serve for want of data, model or device, by that cause.",
    ["cause"],
    by=AGENT,
)
known(AGENT_JOBS_BLOCKED, cause=("data", "model", "device"))
AGENT_REFUSALS = counter(
    "fedhft_agent_refusals", "Refusals that ended a task or a job for this agent, by error code.", ["code"], by=AGENT
)
known(AGENT_REFUSALS, code=CODES)
AGENT_CONNECTION_FAILURES = counter(
    "fedhft_agent_connection_failures",
    "Attempts at a call that did not reach the server, by error code: the causes of failed handshakes are told apart.",
    ["code"],
    by=AGENT,
)
known(
    AGENT_CONNECTION_FAILURES,
    code=[code for code in CODES if code.startswith(("server_", "client_certificate_", "proxy_"))],
)
AGENT_CERTIFICATE_EXPIRY_SECONDS = gauge(
    "fedhft_agent_certificate_expiry_seconds",
    "When the certificate that this agent shows ends, seconds since the epoch; 0 without one.",
    by=AGENT,
)
AGENT_PAYLOAD_BYTES = counter(
    "fedhft_agent_payload_bytes",
    "Bytes of blobs that this agent moved, after coding; labelled like fedhft_payload_bytes_total.",
    ["direction", "payload", "tier"],
    by=AGENT,
)
AGENT_STEP_SECONDS = histogram(
    "fedhft_agent_step_seconds",
    "Wall time of one optimiser step of this agent, mean per update.",
    ["tier"],
    buckets=CALL_BUCKETS,
    by=AGENT,
)
AGENT_ENERGY_JOULES = counter(
    "fedhft_agent_energy_joules",
    "Joules that the agent's machine used, all that runs on it together, during tasks; 0 where it counts none.",
    by=AGENT,
)
AGENT_CODING_SECONDS = histogram(
    "fedhft_agent_coding_seconds",
    "Time to encode an update, or to decode and add a fetched blob, by operation: encode or decode.",
    ["operation"],
    buckets=CALL_BUCKETS,
    by=AGENT,
)
known(AGENT_CODING_SECONDS, operation=("encode", "decode"))
