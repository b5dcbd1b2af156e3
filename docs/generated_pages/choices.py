"""Choices of a method, and presets as combinations of them."""

from __future__ import annotations

from fedhft.job import parse_job
from fedhft.methods import PRESET_WIRE, PRESETS, Method, method_of
from generated_pages.job_reference import small_job
from generated_pages.tables import cell, table


def choices() -> str:
    """Every choice of a method with its values."""
    defs = Method.model_json_schema()["$defs"]
    rows = []
    for name, info in Method.model_fields.items():
        if name != "preset":
            shape = Method.model_json_schema()["properties"][name]
            values = defs[shape["$ref"].rsplit("/", 1)[-1]]["enum"] if "$ref" in shape else None
            shown = ", ".join(f"`{value}`" for value in values) if values else _VALUES[name]
            rows.append((f"`{name}`", cell(info.description or ""), shown))
    return table(("choice", "what it decides", "values"), rows)


_VALUES = {"share_a": "`true`, `false`", "clusters": '1 to 64, or `"auto"`'}


def presets() -> str:
    """Every preset as a row of choices."""
    names = [name for name in Method.model_fields if name != "preset"]
    rows = []
    for preset in PRESETS:
        method = method_of(preset).model_dump(mode="json")
        rows.append((f"`{preset}`", *(str(method[name]).lower() for name in names)))
    return table(("preset", *names), rows)


def preset_wire() -> str:
    """Default encodings of every preset."""
    rows = []
    for preset in PRESETS:
        wire = parse_job(small_job(method={"preset": preset})).wire
        levels = str(wire.levels) if "int8" in (wire.up, wire.down) else "-"
        rows.append((f"`{preset}`", wire.up, wire.down, levels, "yes" if wire.error_feedback else "no"))
    if not PRESET_WIRE.keys() <= PRESETS.keys():
        raise ValueError("PRESET_WIRE names an unknown preset")
    return table(("preset", "up", "down", "levels", "error feedback"), rows)
