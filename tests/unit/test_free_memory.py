"""How much memory is free: the machine's word, and the limits of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from fedhft_agent.settings import AgentSettings

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.free_memory import LEAST_MARGIN, FreeMemory, free_memory, memory_limit
from fedhft.process.options import read_settings

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root: Path, kib: int, group: str = "0::/\n") -> None:
    meminfo = f"MemTotal: 99999999 kB\nMemAvailable:   {kib} kB\n"
    write(root, {"proc/meminfo": meminfo, "proc/self/cgroup": group})


def version_2(folder: Path, limit: str, used: int, cached: int = 0) -> None:
    stat = f"anon 5\nactive_file 7\ninactive_file {cached}\n"
    write(folder, {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat})


def test_without_control_groups_the_machine_decides(tmp_path: Path) -> None:
    machine(tmp_path, 3 * 2**20)
    assert free_memory(tmp_path) == FreeMemory(3 * GIB, "MemAvailable")


def test_the_narrowest_group_on_the_way_up_decides_and_its_cached_files_count_as_free(tmp_path: Path) -> None:
    machine(tmp_path, 8 * 2**20, "0::/fedhft.slice/agent.service\n")
    groups = tmp_path / "sys/fs/cgroup"
    version_2(groups / "fedhft.slice/agent.service", "max", GIB)
    version_2(groups / "fedhft.slice", str(2 * GIB), GIB, cached=GIB // 2)
    found = free_memory(tmp_path)
    assert (found.bytes, found.bound_by) == (3 * GIB // 2, str(groups / "fedhft.slice/memory.max"))


def test_a_machine_with_less_than_its_group_allows_decides(tmp_path: Path) -> None:
    machine(tmp_path, 2**20)
    version_2(tmp_path / "sys/fs/cgroup", str(2 * GIB), 0)
    assert free_memory(tmp_path) == FreeMemory(GIB, "MemAvailable")


@pytest.mark.parametrize("own", ["docker/0123abcd", "../../elsewhere"])
def test_in_a_container_of_version_1_the_mount_is_its_own_group(tmp_path: Path, own: str) -> None:
    machine(tmp_path, 8 * 2**20, f"12:cpu,cpuacct:/x\n11:memory:/{own}\n")
    files = {
        "memory.limit_in_bytes": f"{GIB}\n",
        "memory.usage_in_bytes": f"{GIB // 2}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
    }
    write(tmp_path / "sys/fs/cgroup/memory", files)
    assert free_memory(tmp_path).bytes == 3 * GIB // 4


def test_version_1_writes_a_huge_number_for_no_limit(tmp_path: Path) -> None:
    machine(tmp_path, 2**20, "11:memory:/\n")
    files = {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "5\n"}
    write(tmp_path / "sys/fs/cgroup/memory", files)
    assert free_memory(tmp_path).bound_by == "MemAvailable"


def test_a_full_group_leaves_nothing_and_not_less(tmp_path: Path) -> None:
    machine(tmp_path, 2**20)
    version_2(tmp_path / "sys/fs/cgroup", str(GIB), GIB + 5)
    assert free_memory(tmp_path).bytes == 0


def test_a_budget_leaves_a_margin_but_at_least_half() -> None:
    assert FreeMemory(16 * GIB, "").budget == 14 * GIB
    assert FreeMemory(GIB, "").budget == GIB - GIB // 8
    assert FreeMemory(GIB // 4, "").budget == GIB // 4 - LEAST_MARGIN
    assert FreeMemory(LEAST_MARGIN, "").budget == LEAST_MARGIN // 2


def test_a_system_that_says_nothing_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(FedhftError, match="write a size such as 2GiB") as caught:
        free_memory(tmp_path)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_an_agent_with_automatic_memory_plans_with_what_is_free() -> None:
    required = ["--server", "host:1", "--client", "c", "--data", "d.jsonl"]
    memory = read_settings(AgentSettings, [*required, "--memory", "auto"]).memory
    assert 0 < memory < free_memory().bytes * 1.2


def test_the_limit_is_that_of_the_narrowest_group_or_the_machine_s_memory(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == 0
    machine(tmp_path, 2**20, "0::/a/b\n")
    assert memory_limit(tmp_path) == 99999999 * 1024
    version_2(tmp_path / "sys/fs/cgroup/a/b", "max", GIB)
    version_2(tmp_path / "sys/fs/cgroup/a", str(2 * GIB), GIB)
    assert memory_limit(tmp_path) == 2 * GIB
