"""How one input becomes another: bytes, JSON values and protobuf messages, changed at random but not at length.

Cheap on purpose: what finds faults in a decoder is how many inputs reach it. Everything is drawn from a seeded
generator, so a run can be repeated.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

LONGEST = 1 << 20
"""No mutation makes a longer input."""
_BYTES = (b"", b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x00" * 64)
_WORDS = tuple(
    word.encode("utf-8", "surrogatepass")
    for word in (
        "Infinity", "-Infinity", "NaN", "1e400", "-0", "9" * 400, "9" * 5000, "null", "true", "{}", "[]", '""',
        "[" * 40, "[" * 20_000, '{"a":' * 400, "\\ud800", "\ud800", "\ufeff", '"', "\\", "\n", "\r\n", ",", "\0", "'",
        '"""', "=", "a.b.c.d", "inf", "nan", "1979-05-27", "0x10", "1_000", "1e400GiB", "9s",
    )
)  # fmt: skip
ABSURD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, 1.0, -1.5, 1e308, float("inf"), 5e-324,
    "", "x", "x" * 300, "x" * 5000, "0" * 64, "\0", "\n", "1GiB", "99999999999999999999GiB", "9" * 400 + "s", "fedhft",
    "auto", [], [[]],
    {}, {"": {}}, [1] * 300, ["a", "a"], [None], {"a": {"b": {"c": {}}}},
)  # fmt: skip
"""Values that a field of JSON might hold instead of its own."""
_EXTREMES = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 7, 31, 32, 64, 2**31, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2, 255, 2**31, 2**32, 2**53, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, 1.0, -1.0, 0.5, 1e308, 1.8e308, float("nan"), float("inf"), 5e-324),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, 1.0, -1.0, 3.4e38, float("nan"), float("inf"), 1e-45),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 7, 2**31 - 1),
}


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` after one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        data = _changed(rng, data, others)
    return data[:LONGEST]


def _changed(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    size = len(data)
    at = rng.randrange(size + 1)
    end = min(size, at + rng.choice((1, 1, 2, 4, 16, 256)))
    match rng.randrange(8):
        case 0 if size:
            place = rng.randrange(size)
            return data[:place] + bytes((data[place] ^ (1 << rng.randrange(8)),)) + data[place + 1 :]
        case 1 if size:
            place = rng.randrange(size)
            return data[:place] + bytes((rng.randrange(256),)) + data[place + 1 :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + data[at:end] * rng.choice((2, 2, 3, 50)) + data[end:]
        case 4:
            return data[:at] + rng.choice(_WORDS) + data[at:]
        case 5:
            return data[:at] + rng.choice(_BYTES) + data[end:]
        case 6:
            return data[:at]
        case _:
            other = rng.choice(others)
            return data[:at] + other[rng.randrange(len(other) + 1) :]


def mutated_json(rng: random.Random, value: Any) -> str:
    """The text of a JSON value in which one to three places hold something else, are missing, or are new."""
    copied = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        inner = copied
        while isinstance(inner, dict | list) and inner:
            key: Any = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            below = inner[key]
            if not isinstance(below, dict | list) or not below or rng.random() < 0.25:
                match rng.randrange(8):
                    case 0:
                        del inner[key]
                    case 1 if isinstance(inner, dict):
                        inner[rng.choice(("", "x", "version", "x" * 300))] = below
                    case 2 if isinstance(inner, list):
                        inner.append(copy.deepcopy(below))
                    case _:
                        inner[key] = copy.deepcopy(rng.choice(ABSURD))
                break
            inner = below
    return json.dumps(copied)


def mutate_message(rng: random.Random, message: Message) -> None:
    """Change one to three fields of a message, at any depth."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_field(rng, message)


def _change_field(rng: random.Random, message: Message) -> None:
    field: Any = rng.choice(message.DESCRIPTOR.fields)
    name, repeated = field.name, field.is_repeated
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if repeated:
            values = getattr(message, name)
            if values and rng.random() < 0.7:
                _change_field(rng, rng.choice(values))
            elif values and rng.random() < 0.5:
                del values[rng.randrange(len(values)) :]
            else:
                _change_field(rng, values.add())
        elif rng.random() < 0.05:
            message.ClearField(name)
        else:
            _change_field(rng, getattr(message, name))
        return
    if repeated:
        values = getattr(message, name)
        if values and rng.random() < 0.5:
            values[rng.randrange(len(values))] = _value(rng, field)
        elif rng.random() < 0.5:
            values.append(_value(rng, field))
        else:
            values.extend([_value(rng, field)] * rng.choice((1, 255, 300)))
        return
    old = getattr(message, name)
    if isinstance(old, bytes) and old and rng.random() < 0.8:
        setattr(message, name, _changed(rng, old, (old,))[:LONGEST])
    else:
        setattr(message, name, _value(rng, field))


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice((b"", b"\x00", b"\xff" * 32, b"\x00" * 31, rng.randbytes(rng.choice((1, 32, 200)))))
        return rng.choice(("", "x", "shared", "cluster-0", "x" * 300, "../..", "\x00", "a\nb", "0" * 64, "ü"))
    extremes = _EXTREMES[field.cpp_type]
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT) or rng.random() < 0.6:
        return rng.choice(extremes)
    return rng.randrange(300) if field.cpp_type != FieldDescriptor.CPPTYPE_BOOL else False
