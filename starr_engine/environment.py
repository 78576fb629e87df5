"""Where a number was measured: machine, versions, commit and date."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from starr_engine import __version__


def environment() -> dict[str, Any]:
    """Machine, versions and date; the commit where the package runs from a checkout, else null."""
    commit, has_changes = _checkout()
    return {
        "cpu": _cpu_name(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            "starr-engine": __version__,
            **{name: _version(name) for name in ("torch", "numpy", "transformers")},
        },
        "commit": commit,
        "uncommitted_changes": has_changes,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _checkout() -> tuple[str | None, bool]:
    root = Path(__file__).parents[1]
    # An installed package may lie inside somebody else's checkout, whose commit says nothing.
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None, False
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return None, False
    return commit.stdout.strip() or None, bool(changed.stdout.strip())


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
