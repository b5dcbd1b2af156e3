"""Generate what the documents say about the code, or list what is stale (`--check`).

Whole pages: docs/job-reference.md, docs/exit-codes.md. Blocks of other pages, between the marks
`<!-- begin generated: NAME -->` and `<!-- end generated: NAME -->`: choices, presets, preset-wire (methods.md);
options-aggregator, options-clusterer, options-agent, options-job, demo-devices (operations.md); metrics,
recording-rules, alerts (metrics.md); commands (cli.md). generated_pages/ has what makes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from generated_pages.calls import commands, options_agent, options_aggregator, options_clusterer, options_job
from generated_pages.choices import choices, preset_wire, presets
from generated_pages.devices import demo_devices
from generated_pages.job_reference import job_reference
from generated_pages.monitoring import alerts, metrics, recording_rules
from generated_pages.refusals import exit_codes

DOCS = Path(__file__).resolve().parent
_MARK = "<!-- {} generated: {} -->"

BLOCKS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "cli.md": {"commands": commands},
    "methods.md": {"choices": choices, "presets": presets, "preset-wire": preset_wire},
    "operations.md": {
        "options-aggregator": options_aggregator,
        "options-clusterer": options_clusterer,
        "options-agent": options_agent,
        "options-job": options_job,
        "demo-devices": demo_devices,
    },
    "metrics.md": {"metrics": metrics, "recording-rules": recording_rules, "alerts": alerts},
}
"""Page -> block -> what belongs there."""


def pages(folder: Path = DOCS) -> dict[str, str]:
    """Every page that is generated or has generated blocks, as it should be, by name.

    Raises ValueError when a page lacks the marks of a block, or something in the code has no description.
    """
    result = {"job-reference.md": job_reference(), "exit-codes.md": exit_codes()}
    for page, blocks in BLOCKS.items():
        text = (folder / page).read_text(encoding="utf-8")
        for name, make in blocks.items():
            begin, end = _MARK.format("begin", name), _MARK.format("end", name)
            before, found, rest = text.partition(begin)
            _, closed, after = rest.partition(end)
            if not found or not closed:
                raise ValueError(f"docs/{page}: the marks of block {name} are missing")
            text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
        result[page] = text
    return result


def stale(folder: Path = DOCS) -> list[str]:
    """Names of pages under `folder` that do not match the code."""

    def committed(name: str) -> str | None:
        path = folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return sorted(name for name, text in pages(folder).items() if committed(name) != text)


def main() -> int:
    """Generate, or with --check compare: 1 when stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is stale")
    if not parser.parse_args().check:
        for name, text in pages().items():
            (DOCS / name).write_text(text, encoding="utf-8")
        return 0
    names = stale()
    for name in names:
        print(f"docs/{name} does not match the code; run make docs", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
