"""Jobs on Ray in tests: a small local Ray, rows, and who is left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from starr_engine.offline.rows import RawRow

LIMIT_S = 120.0
"""A test that waits longer than this has found something wrong."""

MARK = "STARR_TEST_MARK"
"""Environment variable that every process of a command inherits, Ray's included."""


@contextlib.contextmanager
def small_ray(num_cpus: int = 2) -> Iterator[None]:
    """So many cores on paper, the smallest object store and no dashboard."""
    ray.init(
        address="local", num_cpus=num_cpus, num_gpus=0, object_store_memory=80 * 2**20,
        include_dashboard=False, log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(count: int) -> list[dict[str, Any]]:
    """Prompts of different lengths, so that no two workers keep step."""
    return [{"id": i, "prompt": f"w{i % 90} " * (1 + i % 5)} for i in range(count)]


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s for {what}"
        time.sleep(0.005)


def marked_processes(mark: str) -> list[str]:
    """Command lines of all processes that were started with the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                found.append(f"{folder.name} {b' '.join(words).decode()}")
    return found


def raw_rows(start: int, end: int) -> list[RawRow]:
    return [RawRow(index=i, columns={"id": i, "prompt": f"p {i}"}) for i in range(start, end)]
