"""What a check found: one line for a person, one object for a program, and the exit code of them all."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError

NARROWEST = 40
"""Columns below which lines are not made narrower."""
_NAME = 11
"""Columns of a check's name."""


class Status(StrEnum):
    """How bad a finding is: a warning does not keep the agent from starting, a failure does."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One line: which check, how bad, what was found, and what to do about it."""

    check: str
    status: Status
    detail: str
    fix: str = ""
    code: ErrorCode | None = None
    """Of a failure: the refusal that the agent would meet."""

    @property
    def softened(self) -> Finding:
        """The same as a warning."""
        return replace(self, status=Status.WARNING, code=None)


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, detail)


def warning(check: str, detail: str, fix: str = "") -> Finding:
    """The agent can start, but somebody should know."""
    return Finding(check, Status.WARNING, detail, fix)


def failed(check: str, error: FedhftError) -> Finding:
    """A refusal, whose message ends in its fix."""
    detail, _, fix = error.message.rpartition("; ")
    return Finding(check, Status.FAILED, detail or fix, fix if detail else "", error.code)


def exit_code(findings: Iterable[Finding]) -> int:
    """That of the first failure; 0 where there is none."""
    return next((OUTCOMES[finding.code].exit_code for finding in findings if finding.code is not None), 0)


def as_json(findings: Iterable[Finding]) -> str:
    """A list of objects with check, status, detail and fix."""
    listed = [
        {"check": one.check, "status": one.status.value, "detail": one.detail, "fix": one.fix} for one in findings
    ]
    return json.dumps(listed, indent=2)


def as_lines(finding: Finding, width: int | None) -> Iterator[str]:
    """For people: with a width, wrapped to it, and the fix on a line of its own; without, everything on one line."""
    head = f"{finding.status:<7}  {finding.check:<{_NAME}}  "
    parts = [" ".join(finding.detail.split())]
    if finding.fix:
        parts.append("fix: " + " ".join(finding.fix.split()))
    if width is None:
        yield head + "; ".join(parts)
        return
    indent = " " * len(head)
    for part in parts:
        yield from textwrap.wrap(
            part, max(width, NARROWEST), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
        )
        head = indent


def summary(findings: Iterable[Finding]) -> str:
    """How many of each."""
    count = Counter(finding.status for finding in findings)
    warnings = count[Status.WARNING]
    return f"{count[Status.FAILED]} failed, {warnings} warning{'' if warnings == 1 else 's'}, {count[Status.OK]} ok"
