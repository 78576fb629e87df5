"""How much memory is free, and how much of it the pages of an engine may take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import torch

from starr_engine.errors import ConfigError
from starr_engine.memory_size import MemorySize, parse_memory_size


def memory_budget(size: MemorySize, free: Callable[[], int]) -> int:
    """Bytes that ``kv_memory`` stands for.

    Args:
        size: ``EngineConfig.kv_memory``.
        free: Gives the free bytes; asked only if ``size`` is a fraction of them.

    Raises:
        ConfigError: If ``size`` is no amount of memory, or what is free cannot be found out.
    """
    parsed = parse_memory_size("kv_memory", size)
    return parsed if isinstance(parsed, int) else int(parsed * max(free(), 0))


def resolve_kv_memory(
    size: MemorySize, device: torch.device, *, is_split: bool = False
) -> MemorySize:
    """What ``auto`` stands for; any other size is itself.

    On CUDA it is nearly all that the largest step leaves, which is measured. Where a model is split
    over ranks it is not, and more is left to steps. A CPU's memory is others' too.
    """
    if size != "auto":
        return size
    if device.type == "cpu":
        return "1GiB"
    return 0.8 if is_split else 0.95


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device.

    Raises:
        ConfigError: If the machine does not say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_memory()


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: what its machine has, or its cgroups allow if less.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Raises:
        ConfigError: If the machine does not say.
    """
    available = _available_on_machine(root / "proc" / "meminfo")
    if available is None:
        raise ConfigError(
            "the free memory of this machine cannot be found out; give kv_memory in bytes, or as "
            "a size such as '1GiB'"
        )
    return max(0, min([available, *_left_in_cgroups(root)]))


def _available_on_machine(meminfo: Path) -> int | None:
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not on every Unix
        return None


class _Hierarchy(NamedTuple):
    """Where one version of Linux control groups keeps its numbers."""

    mount: str
    limit: str
    usage: str
    reclaimable: str
    """Entry of ``memory.stat``: file pages that go first when memory is short."""


_VERSION_1: Final = _Hierarchy(
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)
_VERSION_2: Final = _Hierarchy("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """What each limit on this process still allows; an outer group limits an inner one."""
    membership = root / "proc" / "self" / "cgroup"
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        hierarchy = _VERSION_1 if controllers else _VERSION_2
        mount = root / hierarchy.mount
        # In a container the group's path may be the host's, of which only the mount is to be seen.
        folder = mount / group.lstrip("/")
        for candidate in (folder, *folder.parents):
            if candidate.is_relative_to(mount):
                yield from _left_in_group(candidate, hierarchy)


def _left_in_group(folder: Path, hierarchy: _Hierarchy) -> Iterator[int]:
    try:
        limit = (folder / hierarchy.limit).read_text().strip()
        usage = int((folder / hierarchy.usage).read_text())
        stat = (folder / "memory.stat").read_text()
    except OSError:  # no such group here, or it has no limit
        return
    if limit == "max":
        return
    reclaimable = [
        int(number)
        for name, _, number in (line.partition(" ") for line in stat.splitlines())
        if name == hierarchy.reclaimable
    ]
    yield int(limit) - usage + sum(reclaimable)
