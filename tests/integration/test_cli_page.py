"""The commands on contexts in docs/cli.md, against a real server; its address becomes the one that is free here."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path

import pytest

from tests.aggregator import serving
from tests.cli_runner import Done, run_cli
from tests.documented import shell_blocks


async def test_contexts_choose_the_server_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_redis_url: str
) -> None:
    for name in [name for name in os.environ if name.startswith("FEDHFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (block,) = shell_blocks("docs/cli.md", "Contexts")
    async with serving(fresh_redis_url) as aggregator:
        done: dict[str, Done] = {}
        for line in block.lines:
            words = shlex.split(line.replace("127.0.0.1:50053", aggregator.address))[1:]
            done[line] = await asyncio.to_thread(run_cli, *words)
    *setting, present, clinics = done.values()
    assert [one.returncode for one in setting] == [0, 0, 0], setting
    assert (present.returncode, present.stderr) == (0, ""), "the context in use is the lab's"
    assert "certs/operator/olga" in clinics.stderr, "the other one has files, which are not here"
