from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.rpc.status import ERROR_CODE_KEY, MAX_MESSAGE_BYTES, error_from_rpc, message_of, status_of


class Failed(grpc.RpcError):
    """A call that failed, as stubs raise it."""

    def __init__(self, code: grpc.StatusCode, details: str = "", metadata: Any = ()) -> None:
        super().__init__()
        self._answer = (code, details, metadata)

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]

    def trailing_metadata(self) -> Any:
        return self._answer[2]


def test_no_two_codes_have_the_same_exit_code() -> None:
    assert len({outcome.exit_code for outcome in OUTCOMES.values()}) == len(OUTCOMES)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status_and_comes_back_from_it(code: ErrorCode) -> None:
    status = status_of(FedhftError(code, "why"))
    assert status.name == OUTCOMES[code].grpc_status
    error = error_from_rpc(Failed(status, "why", ((ERROR_CODE_KEY, code.value),)))
    assert (error.code, error.message) == (code, "why")


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_a_status_of_grpc_that_means_away_is_server_unavailable(status: grpc.StatusCode) -> None:
    error = error_from_rpc(Failed(status, "connection refused"))
    assert error.code is ErrorCode.SERVER_UNAVAILABLE
    assert "connection refused" in error.message


@pytest.mark.parametrize("details", ["Received RST_STREAM with error code 2", "Stream removed"])
@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_connection_that_broke_is_server_unavailable(status: grpc.StatusCode, details: str) -> None:
    assert error_from_rpc(Failed(status, details)).code is ErrorCode.SERVER_UNAVAILABLE


def test_a_defect_of_the_server_is_not_worth_a_retry() -> None:
    error = error_from_rpc(Failed(grpc.StatusCode.UNKNOWN, "Exception calling application"))
    assert error.code is ErrorCode.INTERNAL
    assert not error.outcome.retryable


def test_a_code_of_a_newer_server_falls_back_to_its_status() -> None:
    newer = ((ERROR_CODE_KEY, "invented_later"),)
    assert error_from_rpc(Failed(grpc.StatusCode.UNAVAILABLE, "", newer)).code is ErrorCode.SERVER_UNAVAILABLE
    assert error_from_rpc(Failed(grpc.StatusCode.ABORTED, "", newer)).code is ErrorCode.INTERNAL


def test_an_error_without_a_call_is_internal() -> None:
    assert error_from_rpc(grpc.RpcError()).code is ErrorCode.INTERNAL


@given(st.text(max_size=6000))
def test_a_message_fits_and_is_a_beginning_of_what_was_said(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # lone surrogates never get into a message
    sent = message_of(text)
    assert len(quote(sent)) <= MAX_MESSAGE_BYTES
    assert sent == text or (sent.endswith("...") and text.startswith(sent[:-3]))
    if len(quote(text)) <= MAX_MESSAGE_BYTES:
        assert sent == text
