"""Amounts of memory: how they are written, and what of it is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import ConfigError, EngineConfig
from starr_engine.engine.memory import free_host_memory, free_memory, memory_budget
from starr_engine.memory_size import parse_memory_size


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (1, 1), (1 << 40, 1 << 40), ("1073741824", 1 << 30), ("1", 1), ("7B", 7),
        ("512MiB", 512 << 20), ("1GiB", 1 << 30), ("1.5GiB", 3 << 29), ("2GB", 2 * 10**9),
        ("0.5 kB", 500), (" 3 tib ", 3 << 40), ("0.1GB", 10**8),
        (0.25, 0.25), (1.0, 1.0), ("0.5", 0.5), ("1.0", 1.0), ("50%", 0.5), ("12.5 %", 0.125),
        ("100%", 1.0),
    ],
)  # fmt: skip
def test_bytes_are_integers_and_fractions_are_floats(written: Any, meant: float) -> None:
    parsed = parse_memory_size("kv_memory", written)
    assert (parsed, type(parsed)) == (meant, type(meant))
    assert EngineConfig(kv_memory=written).kv_memory == written


@pytest.mark.parametrize(
    "written",
    [0, -5, True, None, [], 1e9, 1.5, 0.0, -0.5, float("nan"), float("inf"), "", "GiB", "1G", "1K",
     "1 Gi", "-1GiB", "1e9", "1,5GiB", "0", "0.0", "1.5", "0%", "101%", "0.1B", "half", "1GiB!",
     "\u0661"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_allowed(written: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_memory_size("kv_memory", written)
    assert str(caught.value) == (
        "kv_memory must be bytes as an integer, a fraction of the free memory above 0 and at most "
        "1 such as 0.5 or '50%', or a size such as '512MiB' or '1.5GB' (units: B, KB, KiB, MB, "
        f"MiB, GB, GiB, TB, TiB), got {written!r}"
    )
    with pytest.raises(ConfigError, match="kv_memory must be"):
        EngineConfig(kv_memory=written)


def test_what_is_free_is_asked_for_fractions_alone() -> None:
    assert memory_budget("25%", lambda: 1001) == 250
    assert memory_budget(0.5, lambda: -3) == 0
    assert memory_budget("2KB", lambda: pytest.fail("asked")) == 2000


def test_a_cuda_device_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: asked.append(device) or (600, 1000)
    )
    assert free_memory(torch.device("cuda:1")) == 600
    assert asked == [torch.device("cuda:1")]


def test_this_machine_says_what_it_has() -> None:
    assert free_memory(torch.device("cpu")) > 1 << 20
    assert free_memory(torch.device("cpu")) < os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root with ``/proc`` and ``/sys``; 1000 KiB are available."""
    meminfo = "MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:  1000 kB\n"
    for name, text in ({"proc/meminfo": meminfo} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group_v2(folder: str, limit: str, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{folder}/memory.current": f"{usage}\n",
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 7\ninactive_file {inactive}\n",
    }


def group_v1(folder: str, limit: int, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"sys/fs/cgroup/memory{folder}/memory.stat": (
            f"inactive_file 1\ntotal_inactive_file {inactive}\n"
        ),
    }


SELF = "proc/self/cgroup"
V1 = "5:cpu:/\n4:memory,hugetlb:/a/b\n0::/\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1000 * 1024),
        ({SELF: "0::/\n"}, 1000 * 1024),
        ({SELF: "0::/a\n"} | group_v2("/a", "max", 50, 0), 1000 * 1024),
        ({SELF: "0::/a\n"} | group_v2("/a", "5000", 1200, 200), 4000),
        ({SELF: "0::/a\n"} | group_v2("/a", str(1 << 40), 1200, 200), 1000 * 1024),
        # An outer group's limit holds for those inside.
        (
            {SELF: "0::/a/b\n"}
            | group_v2("/a/b", "9000", 0, 0)
            | group_v2("/a", "5000", 2000, 0),
            3000,
        ),
        # A path that only the host sees: the container's own group is at the mount.
        ({SELF: "0::/host/pod\n"} | group_v2("", "5000", 1000, 0), 4000),
        ({SELF: "0::/a\n"} | group_v2("/a", "5000", 6000, 0), 0),
        ({SELF: V1} | group_v1("/a/b", 5000, 1200, 200), 4000),
        ({SELF: V1} | group_v1("/a", 5000, 2000, 0), 3000),
        ({SELF: V1} | group_v1("", 9223372036854771712, 2000, 0), 1000 * 1024),
    ],
)  # fmt: skip
def test_a_control_group_may_leave_less_than_the_machine_has(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert free_host_memory(machine(tmp_path, files)) == expected


def test_without_proc_the_system_is_asked_and_may_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert free_host_memory(tmp_path) == 7 * 4096

    def unknown(name: str) -> int:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(os, "sysconf", unknown)
    with pytest.raises(ConfigError, match="cannot be found out; give kv_memory in bytes"):
        free_host_memory(tmp_path)
