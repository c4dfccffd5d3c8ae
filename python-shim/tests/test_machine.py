"""The machine's memory as a container sees it; the same cases as the sidecar's own test."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexkv.config import Settings
from flexkv.machine import MachineMemory

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("memory_gb", "env", "size"),
    [(512, {}, 16), (32, {}, 4), (4, {}, 0.5), (32, {"FLEXKV_CPU_CACHE_GB": "16"}, 16)],
)
def test_tier_whose_size_nobody_named_is_an_eighth_of_the_memory_at_most(
    memory_gb: int, env: dict[str, str], size: float
) -> None:
    assert MachineMemory(memory_gb * GB, "here").host_gb(Settings.load(env=env)) == size


def machine(root: Path, **files: str) -> MachineMemory:
    """A root of 32 GB with these files; ``__`` stands for a slash, ``_DOT_`` for a dot."""
    files = {"proc__meminfo": "MemTotal:       31250000 kB\nMemFree: 1 kB\n", **files}
    for name, text in files.items():
        path = Path(root, name.replace("__", "/").replace("_DOT_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MachineMemory.read(root)


V1 = "sys__fs__cgroup__memory"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 32 * GB),
        ({"proc__self__cgroup": "0::/\n"}, 32 * GB),
        ({"proc__self__cgroup": "0::/a\n", "sys__fs__cgroup__a__memory_DOT_max": "max\n"}, 32 * GB),
        (
            {
                "proc__self__cgroup": "0::/a/b\n",
                "sys__fs__cgroup__a__memory_DOT_max": f"{8 * GB}\n",
                "sys__fs__cgroup__a__b__memory_DOT_max": f"{20 * GB}\n",
            },
            8 * GB,
        ),
        (
            {
                "proc__self__cgroup": "0::/../../kubepods/pod1\n",
                "sys__fs__cgroup__memory_DOT_max": f"{6 * GB}",
            },
            6 * GB,
        ),
        (
            {
                "proc__self__cgroup": "7:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/c\n",
                f"{V1}__docker__c__memory_DOT_limit_in_bytes": f"{5 * GB}",
                f"{V1}__memory_DOT_limit_in_bytes": "9223372036854771712",
            },
            5 * GB,
        ),
    ],
    ids=["no groups", "root", "no limit", "above", "host path", "version 1"],
)
def test_read_groups_of_either_version(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert machine(tmp_path, **files).limit == limit


def test_objection_more_than_there_is_names_both_and_the_remedy(tmp_path: Path) -> None:
    memory = machine(
        tmp_path,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_DOT_max=f"{6 * GB}",
    )
    assert memory.objection(6.0) == ""
    text = memory.objection(16.0)
    assert "16.0 GB (cpu_cache_gb)" in text
    assert "/sys/fs/cgroup/memory.max allows 6.0 GB" in text
    assert "Remedy: set cpu_cache_gb (FLEXKV_CPU_CACHE_GB) to 4.5 or less" in text


def test_read_this_machine_has_some() -> None:
    assert 1 << 26 < MachineMemory.read().limit < 1 << 50
