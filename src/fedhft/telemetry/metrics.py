"""Every series that any fedhft process exposes, as `metrics.NAME`; `registry` says what that means. Those that an agent
counts itself are declared in `agent_metrics`.

Names are `fedhft_<noun>_<unit>[_total]`. Labels have few values. A client id is never a label. The label `federation`
is the name of a job (`job` belongs to Prometheus): those of jobs that are over are dropped after a while
(`federations`), so that what a page holds stays bounded.

What an agent and the aggregator both count has two names, so that no sum counts it twice: `fedhft_agent_...` is what an
agent counts itself, `fedhft_client_...` what clients reported to the aggregator. Series named `fedhft_federation_...`
are exposed only by the aggregator that holds the job's lease.

Two series count bytes of updates beside each other: payloads after coding, and what they would have been.
"""

from __future__ import annotations

from fedhft.process.free_memory import memory_limit
from fedhft.telemetry.agent_metrics import (
    AGENT_CERTIFICATE_EXPIRY_SECONDS as AGENT_CERTIFICATE_EXPIRY_SECONDS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_CODING_SECONDS as AGENT_CODING_SECONDS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_CONNECTION_FAILURES as AGENT_CONNECTION_FAILURES,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_ENERGY_JOULES as AGENT_ENERGY_JOULES,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_JOBS_BLOCKED as AGENT_JOBS_BLOCKED,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_PAYLOAD_BYTES as AGENT_PAYLOAD_BYTES,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_PREFIX_BYTES as AGENT_PREFIX_BYTES,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_PREFIX_FAULTS as AGENT_PREFIX_FAULTS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_PREFIX_ROWS as AGENT_PREFIX_ROWS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_REFUSALS as AGENT_REFUSALS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_STATE_FAULTS as AGENT_STATE_FAULTS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_STEP_SECONDS as AGENT_STEP_SECONDS,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_UPDATES as AGENT_UPDATES,
)
from fedhft.telemetry.agent_metrics import (
    AGENT_UPDATES_BOUNDED as AGENT_UPDATES_BOUNDED,
)
from fedhft.telemetry.collectors import BuildInfo, SocketBytesCollector, peak_memory_bytes
from fedhft.telemetry.memory_metrics import (
    AGENT_PLANS_TOO_LARGE as AGENT_PLANS_TOO_LARGE,
)
from fedhft.telemetry.memory_metrics import (
    AGENT_PREDICTED_MEMORY_BYTES as AGENT_PREDICTED_MEMORY_BYTES,
)
from fedhft.telemetry.memory_metrics import (
    CLIENT_PEAK_MEMORY_BYTES as CLIENT_PEAK_MEMORY_BYTES,
)
from fedhft.telemetry.memory_metrics import (
    CLIENT_PREDICTED_MEMORY_BYTES as CLIENT_PREDICTED_MEMORY_BYTES,
)
from fedhft.telemetry.memory_metrics import (
    PLANS_TOO_LARGE as PLANS_TOO_LARGE,
)
from fedhft.telemetry.registry import (
    AGENT,
    AGGREGATOR,
    ALL,
    CALL_BUCKETS,
    CLUSTERER,
    CODES,
    SERVICES,
    counter,
    exposed,
    gauge,
    histogram,
    known,
)

_WORK_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# -- calls
REFUSALS = counter("fedhft_refusals", "Calls that a service refused, by error code.", ["code"], by=SERVICES)
known(REFUSALS, code=CODES)
RPC_SECONDS = histogram(
    "fedhft_rpc_seconds",
    "Duration of served calls, long polls included, by method and gRPC status.",
    ["method", "status"],
    buckets=CALL_BUCKETS,
    by=SERVICES,
)
RPCS_IN_FLIGHT = gauge("fedhft_rpcs_in_flight", "Calls being served, by method.", ["method"], by=SERVICES)
QUEUE_WAIT_SECONDS = histogram(
    "fedhft_queue_wait_seconds",
    "Time a piece of work waited before it started: a transfer for its place, a fit for its thread.",
    buckets=CALL_BUCKETS,
    by=SERVICES,
)
TRANSFERS_WAITING = gauge(
    "fedhft_transfers_waiting",
    "Transfers that wait for a place, by direction: up or down, as agents see it.",
    ["direction"],
    by=AGGREGATOR,
)
known(TRANSFERS_WAITING, direction=("up", "down"))
ENROLMENTS = counter(
    "fedhft_enrolments", "Agents that enrolled under a new lease: new ones, and those that were away too long.",
    by=AGGREGATOR,
)  # fmt: skip
ENROLLED_CLIENTS = gauge(
    "fedhft_enrolled_clients",
    "Clients whose agent holds a lease, in jobs or not. Every replica shows the same: take the maximum.",
    by=AGGREGATOR,
)

# -- certificates
TLS_RELOADS = counter(
    "fedhft_tls_reloads",
    "Times that TLS files were found replaced, by outcome: used, or refused (the old ones stay in use).",
    ["outcome"],
    by=SERVICES,
)
known(TLS_RELOADS, outcome=("used", "refused"))
CERTIFICATE_EXPIRY_SECONDS = gauge(
    "fedhft_certificate_expiry_seconds",
    "When the certificate that this service shows ends, seconds since the epoch; 0 without TLS.",
    by=SERVICES,
)

# -- bytes of updates and of what is published
PAYLOAD_BYTES = counter(
    "fedhft_payload_bytes",
    "Bytes of blobs moved, after coding. direction: up or down, as agents see it; payload: update, delta, snapshot.",
    ["federation", "direction", "payload", "tier"],
    by=AGGREGATOR,
)
PAYLOAD_FP32_BYTES = counter(
    "fedhft_payload_fp32_bytes",
    "What the accepted updates would have taken uncoded: the values they keep, in float32.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
PAYLOAD_MODEL_BYTES = counter(
    "fedhft_payload_model_bytes",
    "What the accepted updates would have taken as whole models: every parameter, in float32.",
    ["federation", "tier"],
    by=AGGREGATOR,
)

# -- rounds
ROUNDS = counter(
    "fedhft_rounds",
    "Rounds by outcome: published, evaluated, extended (too few updates at the deadline) or failed.",
    ["federation", "outcome"],
    by=AGGREGATOR,
)
ROUND_PHASE_SECONDS = histogram(
    "fedhft_round_phase_seconds",
    "Time rounds spent per phase: collecting or folding. A phase is observed when it ends.",
    ["federation", "phase"],
    buckets=_WORK_BUCKETS,
    by=AGGREGATOR,
)
UPDATES_ACCEPTED = counter(
    "fedhft_updates_accepted", "Updates durably recorded, by tier.", ["federation", "tier"], by=AGGREGATOR
)
UPDATES_REFUSED = counter(
    "fedhft_updates_refused",
    "Updates refused for what they hold, by error code.",
    ["federation", "code"],
    by=AGGREGATOR,
)
UPDATES_SET_ASIDE = counter(
    "fedhft_updates_set_aside",
    "Recorded updates that a fold left out: gone, damaged, or deadly.",
    ["federation"],
    by=AGGREGATOR,
)
UPDATES_CLIPPED = counter(
    "fedhft_updates_clipped", "Updates that a fold scaled down (limits.clip).", ["federation"], by=AGGREGATOR
)
UPDATES_OPPOSED = counter(
    "fedhft_updates_opposed",
    "Updates left out for pointing against the others' (limits.opposed).",
    ["federation"],
    by=AGGREGATOR,
)
STEPS_FAILED = counter(
    "fedhft_steps_failed",
    "Steps of jobs that failed and are tried again, by kind: passing, surroundings or defect.",
    ["federation", "kind"],
    by=AGGREGATOR,
)
FOLD_SECONDS = histogram(
    "fedhft_fold_seconds", "Time to fold one round's updates.", buckets=_WORK_BUCKETS, by=AGGREGATOR
)
DECODING_SECONDS = histogram(
    "fedhft_decoding_seconds", "Time to decode and check one update that came.", buckets=CALL_BUCKETS, by=AGGREGATOR
)

# -- where a job stands: exposed by the holder of its lease
LEASE_HELD = gauge(
    "fedhft_federation_lease_held",
    "1 on the aggregator that drives the job, 0 on the others. (The only series of its kind on every aggregator.)",
    ["federation"],
    by=AGGREGATOR,
)
STATE = gauge(
    "fedhft_federation_state", "1 for the job's state, 0 for the others.", ["federation", "state"], by=AGGREGATOR
)
PAUSED = gauge(
    "fedhft_federation_paused", "1 while the job is paused until somebody resumes it.", ["federation"], by=AGGREGATOR
)
BLOCKED = gauge(
    "fedhft_federation_blocked",
    "1 while the job's surroundings (store, volume, memory) keep it from going on.",
    ["federation"],
    by=AGGREGATOR,
)
ROUND = gauge("fedhft_federation_round", "Number of the open or last round.", ["federation"], by=AGGREGATOR)
ROUNDS_PLANNED = gauge(
    "fedhft_federation_rounds_planned", "Rounds that the job asks for.", ["federation"], by=AGGREGATOR
)
ROUND_OPENED_SECONDS = gauge(
    "fedhft_federation_round_opened_seconds",
    "When the open or last round opened, seconds since the epoch by the store's clock.",
    ["federation"],
    by=AGGREGATOR,
)
ROUND_DEADLINE_SECONDS = gauge(
    "fedhft_federation_round_deadline_seconds",
    "When the round that is being collected or folded is due, seconds since the epoch; absent between rounds.",
    ["federation"],
    by=AGGREGATOR,
)
ROUND_ASKED = gauge("fedhft_federation_round_asked", "Clients sampled for the round.", ["federation"], by=AGGREGATOR)
ROUND_DELIVERED = gauge(
    "fedhft_federation_round_delivered", "Clients whose update the round has.", ["federation"], by=AGGREGATOR
)
ROUND_QUORUM = gauge(
    "fedhft_federation_round_quorum", "Updates that the round needs at its deadline.", ["federation"], by=AGGREGATOR
)
CLIENTS = gauge(
    "fedhft_federation_clients",
    "Clients of the job by state: live, silent (joined, and not heard from for rounds.client_timeout) or declined.",
    ["federation", "state"],
    by=AGGREGATOR,
)
SCORE = gauge(
    "fedhft_federation_score",
    "Scores of the last published round. split: personal or shared rows; moment: before or after local training; "
    "statistic over clients: mean, median, worst_decile (mean of the lowest tenth). Of shared rows the mean over rows.",
    ["federation", "split", "moment", "statistic"],
    by=AGGREGATOR,
)
LOSS = gauge(
    "fedhft_federation_loss",
    "Losses of the last published round, labelled like scores; worst_decile is the mean of the highest tenth.",
    ["federation", "split", "moment", "statistic"],
    by=AGGREGATOR,
)
TASK_METRIC = gauge(
    "fedhft_federation_task_metric",
    "Every metric of the task, labelled like scores; moment constant: what the best constant answer would score.",
    ["federation", "metric", "split", "moment"],
    by=AGGREGATOR,
)
MAJORITY_SCORE = gauge(
    "fedhft_federation_majority_score", "Score of a constant answer, mean over clients.", ["federation"], by=AGGREGATOR
)
PLAN_DEPTH = gauge(
    "fedhft_federation_plan_depth",
    "Layers with adapters in the round's plans, mean over the clients of the tier.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
PLAN_RANK_SUM = gauge(
    "fedhft_federation_plan_ranks",
    "Ranks of the adapters in a plan of the round, added up; mean over the clients of the tier.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
PLAN_DENSITY = gauge(
    "fedhft_federation_plan_density",
    "Share of an adapter's rows that the round's plan trains and sends.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
PLAN_HORIZON_SECONDS = gauge(
    "fedhft_federation_plan_horizon_seconds",
    "How long a round takes by the plans in force, where a job plans by capacity.",
    ["federation"],
    by=AGGREGATOR,
)
ROUND_WAITING = gauge(
    "fedhft_federation_round_waiting_ratio",
    "Share of the time to the last update that clients of the last published round waited for it, mean over clients.",
    ["federation"],
    by=AGGREGATOR,
)
ROUND_CLIENT_SECONDS = gauge(
    "fedhft_federation_round_client_seconds",
    "Seconds of a client in the last published round, mean over clients, by activity: fetch, fill (the cache of frozen "
    "layers), train, score, code, send, wait.",
    ["federation", "activity"],
    by=AGGREGATOR,
)
PEAK_MEMORY_BYTES = gauge(
    "fedhft_federation_peak_memory_bytes",
    "Largest peak resident set that a client reported in the last published round.",
    ["federation", "tier"],
    by=AGGREGATOR,
)
CLUSTER_PARTICIPANTS = gauge(
    "fedhft_federation_cluster_participants",
    "Clients of the last published round whose largest membership is this cluster.",
    ["federation", "cluster"],
    by=AGGREGATOR,
)
ROUND_MEMBERSHIPS_VERSION = gauge(
    "fedhft_federation_memberships_version",
    "Version of the memberships that the last published round used.",
    ["federation"],
    by=AGGREGATOR,
)

# -- the store
STORE_UP = gauge("fedhft_store_up", "1 while Redis answers this process and takes writes.", by=SERVICES)
STORE_AOF_STATE = gauge(
    "fedhft_store_aof_state",
    "1 for the state of Redis' append-only file: ok, failing (its last write or rewrite failed) or off.",
    ["state"],
    by=SERVICES,
)
STORE_MEMORY_USED_BYTES = gauge("fedhft_store_memory_used_bytes", "Memory that Redis uses.", by=SERVICES)
STORE_MEMORY_MAXIMUM_BYTES = gauge(
    "fedhft_store_memory_maximum_bytes", "Memory that Redis may use (maxmemory); 0 without a limit.", by=SERVICES
)
STORE_ROUND_TRIPS = counter("fedhft_store_round_trips", "Commands and scripts sent to Redis.", by=SERVICES)

# -- clusters
CLUSTER_CLIENTS = gauge(
    "fedhft_cluster_clients",
    "Joined clients whose largest membership is this cluster, as this clusterer last found them.",
    ["federation", "cluster"],
    by=CLUSTERER,
)
CLUSTER_CONFIDENCE = gauge(
    "fedhft_cluster_confidence", "Weight, in 0..1, of clusters against only one.", ["federation"], by=CLUSTERER
)
MEMBERSHIPS_VERSION = gauge(
    "fedhft_memberships_version", "Latest version of a job's memberships.", ["federation"], by=CLUSTERER
)
CLUSTERING_SECONDS = histogram(
    "fedhft_clustering_seconds", "Time to fit the mixture once.", buckets=_WORK_BUCKETS, by=CLUSTERER
)
CLUSTERINGS = counter(
    "fedhft_clusterings",
    "Requests for new memberships, by outcome: published, or lost (another request published first).",
    ["outcome"],
    by=CLUSTERER,
)
known(CLUSTERINGS, outcome=("published", "lost"))

# -- what clients report with their updates (agents behind NAT cannot be scraped)
CLIENT_STEP_SECONDS = histogram(
    "fedhft_client_step_seconds",
    "Wall time of one optimiser step, mean per report.",
    ["federation", "tier"],
    buckets=CALL_BUCKETS,
    by=AGGREGATOR,
)

# -- this process
PROCESS_PEAK_MEMORY_BYTES = gauge("fedhft_process_peak_memory_bytes", "Peak resident set of this process.", by=ALL)
PROCESS_MEMORY_LIMIT_BYTES = gauge(
    "fedhft_process_memory_limit_bytes",
    "Memory that this process may use: the narrowest limit of its control groups, else the machine's memory.",
    by=ALL,
)

PROCESS_PEAK_MEMORY_BYTES.set_function(peak_memory_bytes)
PROCESS_MEMORY_LIMIT_BYTES.set_function(memory_limit)


SOCKET_BYTES = exposed(SocketBytesCollector("fedhft_socket_bytes"), SERVICES)
AGENT_SOCKET_BYTES = exposed(SocketBytesCollector("fedhft_agent_socket_bytes"), AGENT)
BUILD_INFO = exposed(BuildInfo(), ALL)
