"""`fedhft agent check`, also `python -m fedhft_agent check`: every check in turn, whatever the others found."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.free_memory import free_memory
from fedhft.process.options import read_settings
from fedhft.telemetry import logs
from fedhft_agent.check.findings import Finding, as_json, as_lines, exit_code, failed, summary
from fedhft_agent.check.settings import CheckSettings


def main(arguments: Sequence[str]) -> int:
    """Run the check; returns its exit code."""
    try:
        settings = read_settings(CheckSettings, arguments)
    except FedhftError as error:
        report = _Report(as_json_list=_asks_for_json(arguments))
        report.add([failed("settings", error)])
        return report.end()
    logs.configure(settings.log_format, "error")  # what loads a model has much to say; findings say what matters
    report = _Report(as_json_list=settings.output == "json")
    late = _run(settings, report)
    code = report.end()
    if late:
        # A thread that waits for a dead disk or a slow hub would keep the interpreter from ending.
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(settings: CheckSettings, report: _Report) -> bool:
    """Every check; whether one of them had to be left behind."""
    # Here, so that wrong settings are answered at once.
    from fedhft_agent.agent import fix_threads
    from fedhft_agent.check import device, files, server
    from fedhft_agent.check.scene import Check, Scene, run_check

    fix_threads(settings.threads)
    scene = Scene(settings)
    with contextlib.suppress(FedhftError):
        scene.free = free_memory()
    late = False
    for check in (
        Check("address", server.check_address, ErrorCode.SERVER_UNAVAILABLE),
        Check("certificate", server.check_certificate, ErrorCode.INVALID_ARGUMENT),
        Check("tls", server.check_tls, ErrorCode.SERVER_UNAVAILABLE),
        Check("server", server.check_server, ErrorCode.SERVER_UNAVAILABLE),
        Check("rules", server.check_rules, ErrorCode.DECLINED),
        Check("data", files.check_data, ErrorCode.INVALID_DATA),
        Check("device", device.check_device, ErrorCode.DEVICE_FAILED),
        Check("model", files.check_model, ErrorCode.INVALID_MODEL),
        Check("memory", files.check_memory, ErrorCode.PLAN_TOO_LARGE),
        Check("disk", files.check_disk, ErrorCode.STORE_UNAVAILABLE),
    ):
        found, left_behind = run_check(check, scene, settings.patience)
        report.add(found)
        late = late or left_behind
    return late


class _Report:
    """Lines appear as they are found; a list when all is found."""

    def __init__(self, as_json_list: bool) -> None:
        self._as_json_list = as_json_list
        self._findings: list[Finding] = []
        # A journal keeps lines of any length, and one finding is one line there.
        wrapped = sys.stdout.isatty() or "COLUMNS" in os.environ
        self._width = shutil.get_terminal_size().columns if wrapped else None

    def add(self, findings: Sequence[Finding]) -> None:
        self._findings += findings
        for finding in findings if not self._as_json_list else ():
            for line in as_lines(finding, self._width):
                print(line, flush=True)

    def end(self) -> int:
        print(as_json(self._findings) if self._as_json_list else summary(self._findings), flush=True)
        return exit_code(self._findings)


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """The format asked for, where the settings as a whole cannot be read."""
    given = f" {' '.join(arguments)} "
    flags = ("--output json ", "--output=json ", "-o json ", "-ojson ", "--format json ", "--format=json ")
    variables = ("FEDHFT_OUTPUT", "FEDHFT_FORMAT")
    return any(f" {flag}" in given for flag in flags) or any(os.environ.get(name) == "json" for name in variables)
