"""What an agent is told at its start: flags, and for each flag an environment variable FEDHFT_<NAME>.

No tensor library is imported here, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId, parse_client_id, parse_job_id
from fedhft.job import parse_duration, parse_size
from fedhft.process.lifecycle import OptionParser
from fedhft.rpc.tls import TlsSettings
from fedhft.telemetry.logs import LOG_FORMATS, LOG_LEVELS


@dataclass(frozen=True)
class AgentSettings:
    """Settings of one agent process."""

    server: str
    """HOST:PORT of the aggregator."""
    client: ClientId
    """Whose data this is; one agent at a time may run under it."""
    data: str
    """Training rows: a JSONL(.gz), CSV or Parquet file, or a `datasets` id."""
    holdout: str | None
    """The client's own held-out rows; None splits them off the training rows as the job says."""
    shared_validation: str | None
    """The validation split common to all clients, if this agent has it."""
    model: str | None
    """Local path of the base model; None takes the job's."""
    memory_bytes: int
    """Memory this agent may use, bytes; 0 means not stated."""
    tier: str
    """Tier to ask for; empty lets the job decide."""
    job: JobId | None
    """The only job to take part in; None takes every job that is offered, one after another."""
    state_dir: Path
    """Where unacknowledged work and carried errors survive a restart; one agent per directory."""
    once: bool
    """Exit after one job."""
    threads: int
    """Threads of tensor operations; 0 leaves the choice to torch. One thread makes training repeatable to the bit."""
    metrics_host: str
    metrics_port: int | None
    """Where /metrics, /healthz and /readyz are served; port 0 picks a free one; None serves none."""
    give_up_after_s: float | None
    """Seconds without an answer from the server after which the agent exits; None means never."""
    log_format: str
    log_level: str
    tls: TlsSettings | None
    """None talks without TLS."""


def parse_settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> AgentSettings:
    """Settings from flags, then the environment, then defaults.

    Raises FedhftError(INVALID_ARGUMENT) that names the flag, its value and the fix; exits with 2 on an unknown flag.
    """
    environ = os.environ if environ is None else environ
    parser = OptionParser("python -m fedhft_agent", "Trains this machine's part of a federation.", environ)
    option = parser.option
    option("server", "", "the aggregator, host:port (required)")
    option("client", "", "whose data this is: 1-63 characters of a-z 0-9 . _ - (required)")
    option("data", "", "training rows: a .jsonl[.gz], .csv or .parquet file, or a datasets id (required)")
    option("holdout", "", "own held-out rows; without them the job's share of the training rows is held out")
    option("shared-validation", "", "the validation split that all clients share")
    option("model", "", "local copy of the base model, instead of the job's name for it")
    option("memory", "0", 'memory the agent may use, e.g. "2GiB"; decides its tier and the plans it refuses; 0: unsaid')
    option("tier", "", "tier to ask for")
    option("job", "", "take part in this job only, and exit when it is over")
    option("state-dir", "", "where work survives a restart; without it the user's state directory / fedhft / client")
    option("threads", "0", "threads of tensor operations; 1 makes training repeatable to the bit, 0 leaves it to torch")
    option("metrics-host", "127.0.0.1", "host of /metrics, /healthz and /readyz")
    option("metrics-port", "", "port of these pages; 0 picks a free one, none serves no pages")
    option("give-up-after", "0s", 'exit when the server has not answered for this long, e.g. "10m"; 0s: never')
    option("log-format", "json", "format of logs on standard error", choices=LOG_FORMATS)
    option("log-level", "info", "least level of logs", choices=LOG_LEVELS)
    option("tls-certificate", "", "PEM certificate chain of this agent")
    option("tls-key", "", "PEM private key of this agent")
    option("tls-authority", "", "PEM certificates that the server must be signed by; switches TLS on")
    once = environ.get("FEDHFT_ONCE", "").lower() in ("1", "true", "yes")
    parser.add_argument("--once", action="store_true", default=once, help="exit after one job [FEDHFT_ONCE=1]")
    given: dict[str, Any] = vars(parser.parse_args(list(argv)))

    for flag in ("server", "client", "data"):
        if not given[flag]:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, f"--{flag}", "", "is required", f"give it, or set FEDHFT_{flag.upper()}"
            )
    client = parse_client_id(given["client"])
    port = given["metrics_port"]
    return AgentSettings(
        server=given["server"],
        client=client,
        data=given["data"],
        holdout=given["holdout"] or None,
        shared_validation=given["shared_validation"] or None,
        model=given["model"] or None,
        memory_bytes=int(_measure("memory", given["memory"], parse_size)),
        tier=given["tier"],
        job=parse_job_id(given["job"]) if given["job"] else None,
        state_dir=Path(given["state_dir"]) if given["state_dir"] else _user_state(environ) / client,
        once=given["once"],
        threads=_integer("threads", given["threads"], 4096),
        metrics_host=given["metrics_host"],
        metrics_port=_integer("metrics-port", port, 65535) if port else None,
        give_up_after_s=_measure("give-up-after", given["give_up_after"], parse_duration) or None,
        log_format=given["log_format"],
        log_level=given["log_level"],
        tls=_tls(given),
    )


def _tls(given: Mapping[str, Any]) -> TlsSettings | None:
    files = [Path(given[name]) if given[name] else None for name in ("tls_certificate", "tls_key", "tls_authority")]
    return TlsSettings(*files) if any(files) else None


def _user_state(environ: Mapping[str, str]) -> Path:
    root = environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "fedhft"


def _measure(flag: str, text: str, parse: Callable[[object], object]) -> float:
    try:
        value = float(str(parse(text)))
    except ValueError as error:
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, f"--{flag}: {error}") from error
    return value


def _integer(flag: str, text: str, largest: int) -> int:
    if not text.isdigit() or int(text) > largest:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            f"--{flag}",
            text,
            "is not in range",
            f"write a whole number from 0 to {largest}",
        )
    return int(text)
