"""Retries: exponential back-off with full jitter, only for what may succeed later.

Full jitter (uniform between zero and the exponential bound) keeps thousands of agents from returning in step after a
server was away (Brooker, "Exponential backoff and jitter").
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from fedhft.errors import FedhftError
from fedhft.rpc.status import error_from_rpc

T = TypeVar("T")

_NAP_SECONDS = 0.1
"""How soon a wait notices `should_stop`."""


class CallStoppedError(Exception):
    """`should_stop` returned true before the call succeeded; the last refusal, if any, is the cause."""


@dataclass(frozen=True)
class Backoff:
    """Waits before the n-th repeat: uniform in [0, min(longest_s, first_s * 2^(n-1))]."""

    first_s: float = 0.5
    longest_s: float = 30.0
    seldom_s: float = 60.0
    """Longest wait before another attempt at what only a person can repair; the shortest is half of it."""

    def bound_s(self, repeat: int) -> float:
        """Longest wait before the given repeat (1-based), seconds."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(repeat - 1, 60)))


@dataclass(frozen=True)
class Wait:
    """One wait, as told to `on_wait`."""

    error: FedhftError
    """Why the last attempt failed."""
    seconds: float
    """How long the wait is."""
    attempts: int
    """Attempts made so far."""


_DEFAULT = Backoff()


def _never(error: FedhftError) -> bool:
    return False


def call_with_retry(
    fn: Callable[[], T],
    should_stop: Callable[[], bool],
    give_up_after_s: float | None = None,
    on_wait: Callable[[Wait], None] | None = None,
    backoff: Backoff = _DEFAULT,
    seldom: Callable[[FedhftError], bool] = _never,
) -> T:
    """Call `fn` until it returns, is refused for good, time is up, or `should_stop` returns true.

    `fn` raises FedhftError or grpc.RpcError; only retryable codes are retried, and errors for which `seldom` is true,
    these after `backoff.seldom_s`. Blocking: for the agent and the command line. With `give_up_after_s`, no wait begins
    that would end later than that after the first attempt.
    Raises FedhftError (the last refusal; gRPC errors are translated) or CallStoppedError.
    """

    def attempt() -> T:
        if should_stop():
            raise CallStoppedError("stopped before the call was made")
        try:
            return fn()
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error

    def out_of_time(state: RetryCallState) -> bool:
        if give_up_after_s is None:
            return False
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > give_up_after_s

    def refusal(state: RetryCallState) -> FedhftError | None:
        failure = state.outcome.exception() if state.outcome is not None else None
        return failure if isinstance(failure, FedhftError) else None

    def wait(state: RetryCallState) -> float:
        failure = refusal(state)
        if failure is not None and not failure.outcome.retryable:
            return random.uniform(backoff.seldom_s / 2, backoff.seldom_s)
        return often(state)

    def tell(state: RetryCallState) -> None:
        failure = refusal(state)
        if on_wait is not None and failure is not None:
            on_wait(Wait(error=failure, seconds=state.upcoming_sleep, attempts=state.attempt_number))

    def nap(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if should_stop():
                return  # the next attempt raises CallStoppedError
            time.sleep(min(left, _NAP_SECONDS))

    def again(error: BaseException) -> bool:
        return isinstance(error, FedhftError) and (error.outcome.retryable or seldom(error))

    often = wait_random_exponential(multiplier=backoff.first_s, max=backoff.longest_s)
    policy = Retrying(
        retry=retry_if_exception(again),
        wait=wait,
        stop=out_of_time,
        before_sleep=tell,
        sleep=nap,
        reraise=True,
    )
    return policy(attempt)
