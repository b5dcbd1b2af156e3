"""MLflow's REST interface (https://mlflow.org/docs/latest/rest-api.html): a run in the experiment `fedhft`.

MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, are sent where they are set, to that server alone:
redirects are not followed.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError

EXPERIMENT = "fedhft"
_PATIENCE_S = 20.0
_MOST_AT_ONCE = 1000
"""Metrics of one call, as MLflow bounds them."""
_MOST_ANSWER_BYTES = 8 << 20
_NOT_MLFLOW = "does not answer as MLflow does"
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. :/")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the credentials to another server, and turn POST into GET: it is an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class MLflow:
    """Writes a job's figures as metrics of a run of its name, the round as step."""

    def __init__(self, uri: str, job: str) -> None:
        """Raises FedhftError(INVALID_ARGUMENT) for an address that is not one, (SERVER_UNAVAILABLE) when it fails."""
        self._uri = check_address(uri).rstrip("/")
        experiment = self._experiment()
        now = _now_ms()
        tags = [{"key": "mlflow.runName", "value": job}, {"key": "fedhft.job", "value": job}]
        made = self._post(
            "runs/create", {"experiment_id": experiment, "start_time": now, "run_name": job, "tags": tags}
        )
        self._run = self._text(made, "run", "info", "run_id")

    def write(self, round_number: int, figures: Mapping[str, float]) -> None:
        """See Tracker."""
        now = _now_ms()
        metrics = [
            {"key": _key(name), "value": value, "timestamp": now, "step": round_number}
            for name, value in sorted(figures.items())
        ]
        for start in range(0, len(metrics), _MOST_AT_ONCE):
            part = metrics[start : start + _MOST_AT_ONCE]
            self._post("runs/log-batch", {"run_id": self._run, "metrics": part})

    def close(self, completed: bool) -> None:
        """See Tracker."""
        status = "FINISHED" if completed else "KILLED"
        self._post("runs/update", {"run_id": self._run, "status": status, "end_time": _now_ms()})

    def _experiment(self) -> str:
        query = urllib.parse.urlencode({"experiment_name": EXPERIMENT})
        found = self._call(f"experiments/get-by-name?{query}", None, absent_is_none=True)
        if found is None:
            return self._text(self._post("experiments/create", {"name": EXPERIMENT}), "experiment_id")
        return self._text(found, "experiment", "experiment_id")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call(path, body) or {}

    def _call(self, path: str, body: Mapping[str, Any] | None, absent_is_none: bool = False) -> dict[str, Any] | None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._uri}/api/2.0/mlflow/{path}", data, _headers())  # noqa: S310 - checked
        try:
            with _OPENER.open(request, timeout=_PATIENCE_S) as answer:
                text = answer.read(_MOST_ANSWER_BYTES + 1) or b"{}"
        except urllib.error.HTTPError as error:
            if error.code == 404 and absent_is_none:
                return None
            raise self._failed(f"answers {error.code} to {path.partition('?')[0]}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise self._failed(str(getattr(error, "reason", error)) or type(error).__name__) from error
        found = parse_json(
            text, f"--tracker mlflow={self._uri}", ErrorCode.SERVER_UNAVAILABLE, most_bytes=_MOST_ANSWER_BYTES
        )
        if not isinstance(found, dict):
            raise self._failed(_NOT_MLFLOW)
        return found

    def _text(self, answer: object, *path: str) -> str:
        """A text inside an answer. Raises FedhftError(SERVER_UNAVAILABLE) where there is none."""
        for name in path:
            answer = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(answer, str) or not answer:
            raise self._failed(_NOT_MLFLOW)
        return answer

    def _failed(self, how: str) -> FedhftError:
        return FedhftError.field(
            ErrorCode.SERVER_UNAVAILABLE, "--tracker", f"mlflow={self._uri}", how,
            "check the address, and what MLFLOW_TRACKING_TOKEN or _USERNAME and _PASSWORD say",
        )  # fmt: skip


def check_address(uri: str) -> str:
    """The address, which is one of HTTP. Raises FedhftError(INVALID_ARGUMENT)."""
    try:
        parts = urllib.parse.urlsplit(uri)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half of an IPv6 address, or a port that is not a number
        sound = False
    if not sound or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--tracker", uri, "is not the address of an MLflow server",
            "write mlflow=http://HOST:PORT; `mlflow ui` starts one on a folder",
        )  # fmt: skip
    return uri


def _headers() -> dict[str, str]:
    # A token read from a file ends in a newline, which no header may have.
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN", "").strip(), os.environ.get("MLFLOW_TRACKING_USERNAME")
    headers = {"Content-Type": "application/json"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _key(name: str) -> str:
    """A name that MLflow takes."""
    return "".join(character if character in _ALLOWED else "_" for character in name)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
