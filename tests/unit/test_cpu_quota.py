"""Where quotas of CPU time are set, in files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.local.cpu_quota import CpuQuotas, cpu_quotas, quota_of


@given(st.floats(0.001, 1.0))
def test_a_quota_gives_the_share_within_what_the_kernel_takes(share: float) -> None:
    quota, period = quota_of(share)
    assert quota >= 1000
    assert 100_000 <= period <= 1_000_000
    assert quota / period == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 1e-5])
def test_a_share_below_the_least_gets_the_least(share: float) -> None:
    assert quota_of(share) == (1000, 1_000_000)


def group(root: Path, name: str, handed_on: str = "") -> Path:
    """A control group of version 2. handed_on: controllers of the groups below it."""
    folder = root / "sys/fs/cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").touch()
    (folder / "cgroup.subtree_control").write_text(f"{handed_on}\n")
    return folder


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups can have quotas where the group above hands its controller on, as the kernel has it."""
    monkeypatch.setattr(
        CpuQuotas, "work", lambda quotas: "cpu" in (quotas._above / "cgroup.subtree_control").read_text().split()
    )


@pytest.mark.usefixtures("kernel")
def test_groups_are_made_where_the_controller_is_handed_on_and_processes_go_home_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n")
    home, above = group(tmp_path, "user.slice/session-1.scope"), group(tmp_path, "user.slice", "cpu memory")
    group(tmp_path, "", "cpu memory")
    quotas = cpu_quotas(tmp_path)
    assert quotas is not None
    made = quotas._group(77)
    assert made.parent == above
    made.mkdir()
    for name in ("cpu.max", "cgroup.procs"):
        (made / name).touch()
    quotas.hold(77, 0.25)
    assert (made / "cpu.max").read_text() == "25000 100000\n"
    assert (made / "cgroup.procs").read_text() == "77\n"
    quotas.hold(77, 0.005)
    assert (made / "cpu.max").read_text() == "1000 200000\n"
    (made / "cpu.max").unlink()  # the kernel's files go with the folder
    (made / "cgroup.procs").write_text("77\n78\n")
    gone: list[Path] = []
    monkeypatch.setattr(Path, "rmdir", lambda folder: gone.append(folder))
    quotas.release(77)
    assert (home / "cgroup.procs").read_text() == "78\n"  # each in a write of its own
    assert gone == [made]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("limit", "found"), [("max\n", True), ("max 100000\n", True), ("400000000\n", False)])
def test_nobody_leaves_a_group_that_has_limits(tmp_path: Path, limit: str, found: bool) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    (group(tmp_path, "a") / "memory.max").write_text(limit)
    group(tmp_path, "", "cpu")
    assert (cpu_quotas(tmp_path) is not None) is found


@pytest.mark.usefixtures("kernel")
def test_there_are_no_quotas_where_no_group_around_hands_the_controller_on(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    group(tmp_path, "a"), group(tmp_path, "", "memory")
    assert cpu_quotas(tmp_path) is None


def test_a_group_without_quotas_is_left_as_it_was(tmp_path: Path) -> None:
    """Here folders get no files by themselves, so that a quota has nowhere to be written."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n3:cpu,cpuacct:/\n")
    folder = group(tmp_path, "a", "cpu")
    assert cpu_quotas(tmp_path) is None
    assert sorted(file.name for file in folder.iterdir()) == ["cgroup.procs", "cgroup.subtree_control"]


def test_letting_go_of_a_process_that_was_not_held_does_nothing(tmp_path: Path) -> None:
    def never(folder: Path, quota: int, period: int) -> None:
        raise OSError(f"{folder} {quota} {period}")

    CpuQuotas(tmp_path, tmp_path, never).release(5)
    assert not list(tmp_path.iterdir())
