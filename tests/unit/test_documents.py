"""The one door for JSON and TOML from outside: whatever comes in, a value or a FedhftError comes out."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.documents import DEEPEST, Fields, parse_json, parse_toml, read_toml
from fedhft.errors import ErrorCode, FedhftError

CODE = ErrorCode.INVALID_ARGUMENT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip

BAD_JSON = {
    "deep lists": "[" * 100_000,
    "deep lists, closed": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "one level too deep": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "a long integer": "9" * 5000,
    "an overflowing float": "1e400",
    "not a number": '{"a": NaN}',
    "infinity": "[-Infinity]",
    "a key twice": '{"a": 1, "b": 2, "a": 3}',
    "half a pair": r'{"a": ["\ud83d"]}',
    "half a pair as a key": r'{"\ude00": 1}',
    "nothing": "",
    "a word": "nul",
    "text after it": "{} {}",
    "an open string": '{"' + '\\"' * 100_000,
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_no_reader_expects_is_refused_by_name(text: str) -> None:
    for given_text in (text, text.encode()):
        with pytest.raises(FedhftError, match=r"^the thing: .*; correct it") as caught:
            parse_json(given_text, "the thing", CODE)
        assert caught.value.code is CODE
        assert len(caught.value.message) < 300


@given(VALUES)
def test_any_other_json_comes_out_as_it_went_in(value: object) -> None:
    assert parse_json(json.dumps(value), "the thing", CODE) == value
    assert parse_json("\ufeff" + json.dumps(value, ensure_ascii=False), "the thing", CODE) == value


@given(st.text(max_size=40) | st.text('[]{}",:\\u0123dD8 ', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for strict in (True, False):
        with suppress(FedhftError):
            parse_json(text, "the thing", CODE, strict=strict)
    with suppress(FedhftError):
        parse_toml(text, "the thing", CODE)


def test_brackets_inside_text_are_not_nesting() -> None:
    text = json.dumps({"a": "[{" * 500 + '"' + "\\" * 3 + "[" * 50})
    assert len(parse_json(text, "the thing", CODE)["a"]) == 1000 + 1 + 3 + 50


def test_a_whole_pair_is_text() -> None:
    assert parse_json(r'["\ud83d\ude00"]', "the thing", CODE) == ["\U0001f600"]


def test_what_others_wrote_for_other_readers_may_hold_what_we_would_not_write() -> None:
    assert parse_json('{"a": 1, "a": NaN, "b": "\\ud83d"}', "the thing", CODE, strict=False)["b"] == "\ud83d"


def test_a_document_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(FedhftError, match="longer than 10 bytes"):
        parse_json("[1, 2, 3, 4]", "the thing", CODE, most_bytes=10)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(FedhftError, match="not UTF-8"):
        parse_json(b'{"a": "\xff"}', "the thing", CODE)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        ".".join("a" * 1000) + " = 1",
        "a = nan",
        "a = [{b = -inf}]",
        "a = 1e400",
        "a = " + "9" * 5000,
        f"a = {2**65}",
        "a = 1\na = 2",
        "a",
    ],
)
def test_toml_that_no_reader_expects_is_refused_by_name(text: str) -> None:
    with pytest.raises(FedhftError, match=r"^the thing: ") as caught:
        parse_toml(text, "the thing", CODE)
    assert len(caught.value.message) < 300


def test_a_byte_order_mark_before_toml_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'x'\n")
    assert read_toml(path, "job", CODE) == {"name": "x"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedhftError, match="job: cannot be read: No such file"):
        read_toml(tmp_path / "absent.toml", "job", CODE)


def fields(value: object) -> Fields:
    return Fields(value, "", CODE, "send another")


def test_fields_come_out_typed() -> None:
    raw = fields({"name": "x", "count": 3, "shape": [1, 2], "labels": ["a"], "slots": [{"rank": 4}]})
    assert (raw.text("name", 5), raw.integer("count", 0, 3), raw.integers("shape", 2, 1, 2)) == ("x", 3, (1, 2))
    assert raw.texts("labels", 1, 1) == ("a",)
    assert [slot.integer("rank", 1, 8) for slot in raw.objects("slots", 1)] == [4]
    raw.finish()


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], 2**70, -1, 9])
def test_an_integer_is_an_integer_between_its_bounds(value: object) -> None:
    with pytest.raises(FedhftError, match=r"count = .*is not an integer from 0 to 8; send another"):
        fields({"count": value}).integer("count", 0, 8)


def test_a_refusal_names_the_path_of_the_field() -> None:
    slots = fields({"slots": [{"rank": 1}, {"rank": "x"}]}).objects("slots", 5)
    with pytest.raises(FedhftError, match=r"^slots\[1\]\.rank = 'x'"):
        [slot.integer("rank", 1, 8) for slot in slots]


def test_lists_have_lengths_and_texts_too() -> None:
    for call in (
        lambda: fields({"a": [1] * 9}).integers("a", 8, 0, 1),
        lambda: fields({"a": "x"}).texts("a", 8, 1),
        lambda: fields({"a": "xyz"}).text("a", 2),
        lambda: fields({"a": ""}).text("a", 2),
        lambda: fields({}).text("a", 2),
        lambda: fields([]),
        lambda: fields({"unknown": 1}).finish(),
    ):
        with pytest.raises(FedhftError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.code is CODE
