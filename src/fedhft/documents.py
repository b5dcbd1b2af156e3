"""JSON and TOML from outside: one door, bounded in size and depth, that lets nothing but FedhftError out.

    parse_json, parse_toml      text or bytes -> values
    nearest                     the known key that an unknown one was probably meant to be
    Fields                      takes the fields of such an object out, one by one, typed and bounded

What Python's own readers let through and no reader of ours expects is refused here: nesting that exhausts the stack,
integers of thousands of digits, and, unless asked not to, NaN and infinities, a key given twice, half of a surrogate
pair. A byte order mark at the start is skipped.
"""

from __future__ import annotations

import codecs
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedhft.errors import ErrorCode, FedhftError

MOST_BYTES = 1 << 20
"""Longest document, unless the caller says otherwise."""
DEEPEST = 32
"""Deepest nesting of lists and objects."""
_MOST_DIGITS = 40
_MARK = "\ufeff"
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    text: str | bytes,
    name: str,
    code: ErrorCode,
    *,
    most_bytes: int = MOST_BYTES,
    strict: bool = True,
    unique: bool = False,
) -> Any:
    """The value of a JSON document.

    name: what it is, for messages ("spec_json", a path). strict: refuse non-finite numbers, keys given twice and halves
    of surrogate pairs too; files that others wrote for other readers have them in places that do not matter.
    unique: refuse keys given twice even so. Raises FedhftError(code).
    """
    text = _decoded(text, name, code, most_bytes)
    try:
        if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
            raise ValueError(f"is nested deeper than {DEEPEST} levels")
        value = (_STRICT if strict else _UNIQUE if unique else _LENIENT).decode(text)
        if strict and _HALF_PAIR.search(text) and not all(map(_is_text, _strings(value))):
            raise ValueError("holds half of a surrogate pair, which is not text")
    except (ValueError, RecursionError) as error:
        problem = f"is not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise FedhftError(code, f"{name}: {problem}; correct it and send it again") from error
    return value


def parse_toml(data: str | bytes, name: str, code: ErrorCode, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The table of a TOML document. Raises FedhftError(code)."""
    text = _decoded(data, name, code, most_bytes)
    try:
        table = tomllib.loads(text, parse_float=_finite)
        for value in _walk(table):
            if isinstance(value, int) and value.bit_length() > 64:
                raise ValueError("holds an integer of more than 64 bits")
    except (ValueError, RecursionError) as error:
        problem = f"is not TOML: {error}" if not isinstance(error, RecursionError) else _TOO_DEEP
        raise FedhftError(code, f"{name}: {problem}; correct it and try again") from error
    return table


def nearest(given: str, known: Sequence[str]) -> str:
    """The known key that somebody who wrote `given` probably meant; empty when none is near."""
    plain = given.lower().replace("-", "_")
    return next(iter(difflib.get_close_matches(plain, known, n=1)), "")


def read_toml(path: Path, name: str, code: ErrorCode, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """`parse_toml` of a file. Raises FedhftError(code)."""
    return parse_toml(read_bytes(path, name, code, most_bytes=most_bytes), name, code, most_bytes=most_bytes)


def read_json(path: Path, name: str, code: ErrorCode, *, most_bytes: int = MOST_BYTES, strict: bool = True) -> Any:
    """`parse_json` of a file. Raises FedhftError(code)."""
    data = read_bytes(path, name, code, most_bytes=most_bytes)
    return parse_json(data, name, code, most_bytes=most_bytes, strict=strict)


def read_bytes(path: Path, name: str, code: ErrorCode, *, most_bytes: int = MOST_BYTES) -> bytes:
    """A file's bytes, at most one more than the bound. Raises FedhftError(code)."""
    try:
        with path.open("rb") as stream:
            return stream.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise FedhftError(code, f"{name}: cannot be read: {reason}; check path and permissions") from error


class Fields:
    """An object of a parsed document, whose fields are taken out one by one, typed and bounded.

    Every refusal is a FedhftError(code) that names the field by its path ("slots[3].rank"). `finish` refuses the keys
    that nobody asked for.
    """

    def __init__(self, value: object, path: str, code: ErrorCode, fix: str) -> None:
        self._path, self._code, self._fix = path, code, fix
        if not isinstance(value, dict):
            raise FedhftError.field(code, path or "document", value, "is not an object", fix)
        self._values: dict[str, Any] = value
        self._asked: set[str] = set()

    def refuse(self, name: str, value: object, problem: str) -> NoReturn:
        """Raise the refusal of a field."""
        raise FedhftError.field(self._code, self._at(name), value, problem, self._fix)

    def text(self, name: str, most: int, pattern: re.Pattern[str] | None = None) -> str:
        """1 to `most` characters that match the pattern."""
        return self._text(name, self._value(name), most, pattern)

    def texts(self, name: str, most_items: int, most: int) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(f"{name}[{i}]", v, most, None) for i, v in enumerate(self._items(name, most_items)))

    def integer(self, name: str, least: int, most: int) -> int:
        """An integer between bounds; neither true nor 1.0 is one."""
        return self._integer(name, self._value(name), least, most)

    def integers(self, name: str, most_items: int, least: int, most: int) -> tuple[int, ...]:
        """A list of integers."""
        items = self._items(name, most_items)
        return tuple(self._integer(f"{name}[{i}]", value, least, most) for i, value in enumerate(items))

    def objects(self, name: str, most_items: int) -> Iterator[Fields]:
        """A list of objects."""
        for index, value in enumerate(self._items(name, most_items)):
            yield Fields(value, f"{self._at(name)}[{index}]", self._code, self._fix)

    def finish(self) -> None:
        """Refuse what was not asked for."""
        for name in self._values:
            if name not in self._asked:
                self.refuse(name[:60], self._values[name], "is an unknown key")

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _value(self, name: str) -> Any:
        if name not in self._values:
            self.refuse(name, None, "is missing")
        self._asked.add(name)
        return self._values[name]

    def _items(self, name: str, most: int) -> list[Any]:
        value = self._value(name)
        if not isinstance(value, list):
            self.refuse(name, value, "is not a list")
        if len(value) > most:
            self.refuse(name, f"{len(value)} items", f"at most {most} are allowed")
        return value

    def _text(self, name: str, value: object, most: int, pattern: re.Pattern[str] | None) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            self.refuse(name, value, f"is not a text of 1 to {most} characters")
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(name, value, f"does not match {pattern.pattern}")
        return value

    def _integer(self, name: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, value, f"is not an integer from {least} to {most}")
        return value


_TOO_DEEP = f"is nested deeper than {DEEPEST} levels"


def _decoded(text: str | bytes, name: str, code: ErrorCode, most_bytes: int) -> str:
    if len(text) > most_bytes:
        raise FedhftError(code, f"{name}: is longer than {most_bytes} bytes; make it smaller")
    if isinstance(text, str):
        return text.removeprefix(_MARK)
    try:
        return text.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FedhftError(code, f"{name}: is not UTF-8 ({error}); convert it to UTF-8") from error


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings, found without recursion."""
    depth = deepest = 0
    for match in _TOKENS.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found in "]}":
            depth -= 1
    return deepest


def _walk(value: object) -> Iterator[object]:
    """Everything in a value that is neither list nor object, keys included. Raises ValueError when it is too deep."""
    level: list[object] = [value]
    for _ in range(DEEPEST + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                yield from item
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            else:
                yield item
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)


def _strings(value: object) -> Iterator[str]:
    return (item for item in _walk(value) if isinstance(item, str))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"holds {text[:_MOST_DIGITS]}, which is not a finite number")
    return number


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"holds an integer of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which is not a number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"gives the key {twice[:60]!r} twice")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_int=_integer, parse_constant=_constant)
_LENIENT = json.JSONDecoder(parse_int=_integer)
_UNIQUE = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
