from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import mean

import grpc
import pytest

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.rpc.retry import Backoff, CallStoppedError, Wait, call_with_retry

QUICK = Backoff(first_s=0.01, longest_s=0.02)


def never() -> bool:
    return False


def failing(times: int, code: ErrorCode = ErrorCode.SERVER_UNAVAILABLE) -> Callable[[], int]:
    """Fails `times` times, then returns how often it was called."""
    calls = 0

    def fn() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise FedhftError(code, f"attempt {calls}")
        return calls

    return fn


def test_a_call_is_repeated_until_it_succeeds_and_every_wait_is_told() -> None:
    waits: list[Wait] = []
    assert call_with_retry(failing(3), never, on_wait=waits.append, backoff=QUICK) == 4
    assert [wait.attempts for wait in waits] == [1, 2, 3]
    assert [wait.error.message for wait in waits] == ["attempt 1", "attempt 2", "attempt 3"]
    assert all(0 <= wait.seconds <= 0.02 for wait in waits)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_what_may_succeed_later_is_repeated(code: ErrorCode) -> None:
    if OUTCOMES[code].retryable:
        assert call_with_retry(failing(1, code), never, backoff=QUICK) == 2
    else:
        with pytest.raises(FedhftError, match="attempt 1"):
            call_with_retry(failing(1, code), never, backoff=QUICK)


def test_what_only_a_person_can_repair_is_repeated_seldom_where_the_caller_says_so() -> None:
    waits: list[Wait] = []
    backoff = Backoff(first_s=0.001, longest_s=0.002, seldom_s=0.1)
    expired = failing(2, ErrorCode.SERVER_CERTIFICATE_EXPIRED)
    found = call_with_retry(expired, never, on_wait=waits.append, backoff=backoff, seldom=lambda error: True)
    assert found == 3
    assert all(0.05 <= wait.seconds <= 0.1 for wait in waits)


def test_an_error_that_is_no_refusal_is_not_repeated() -> None:
    calls = 0

    def defect() -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call_with_retry(defect, never, backoff=QUICK)
    assert calls == 1


class Unavailable(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "nobody listens"


def test_errors_of_grpc_are_translated_and_repeated() -> None:
    waits: list[Wait] = []

    def unreachable() -> None:
        raise Unavailable

    with pytest.raises(FedhftError, match="nobody listens") as caught:
        call_with_retry(unreachable, never, give_up_after_s=0.05, on_wait=waits.append, backoff=QUICK)
    assert caught.value.code is ErrorCode.SERVER_UNAVAILABLE
    assert waits


def test_it_gives_up_in_time_with_the_last_refusal() -> None:
    started = time.monotonic()
    with pytest.raises(FedhftError, match="attempt") as caught:
        call_with_retry(failing(10**6), never, give_up_after_s=0.3, backoff=Backoff(first_s=0.05, longest_s=0.1))
    assert caught.value.code is ErrorCode.SERVER_UNAVAILABLE
    assert time.monotonic() - started < 5


def test_no_wait_begins_that_would_end_too_late() -> None:
    waits: list[Wait] = []
    started = time.monotonic()
    with pytest.raises(FedhftError):
        call_with_retry(failing(10**6), never, give_up_after_s=0.2, on_wait=waits.append, backoff=Backoff(100.0, 100.0))
    assert time.monotonic() - started < 5
    assert sum(wait.seconds for wait in waits) <= 0.2


def test_a_stop_ends_a_long_wait_at_once() -> None:
    stop = threading.Event()
    waiting = threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        # The jitter may draw a short wait; then it fails again and draws anew.
        try:
            call_with_retry(failing(10**6), stop.is_set, on_wait=lambda _: waiting.set(), backoff=Backoff(60.0, 60.0))
        except CallStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert waiting.wait(5)
    stop.set()
    thread.join(timeout=2)
    assert len(ended) == 1


def test_nothing_is_called_after_a_stop() -> None:
    def fn() -> None:
        raise AssertionError("called")

    with pytest.raises(CallStoppedError):
        call_with_retry(fn, lambda: True)


def test_waits_are_spread_over_a_growing_interval_that_is_bounded() -> None:
    backoff = Backoff(first_s=0.001, longest_s=0.008)
    seen: dict[int, list[float]] = {}

    def note(wait: Wait) -> None:
        seen.setdefault(wait.attempts, []).append(wait.seconds)

    for _ in range(40):
        call_with_retry(failing(6), never, on_wait=note, backoff=backoff)
    for repeat, waits in seen.items():
        bound = backoff.bound_s(repeat)
        assert bound == min(0.008, 0.001 * 2 ** (repeat - 1))
        assert max(waits) <= bound
        # Full jitter: from zero up to the bound. A fixed wait, or one with a little noise, fails this.
        assert min(waits) < 0.4 * bound
        assert 0.25 * bound < mean(waits) < 0.75 * bound
