"""Runs a program that a model wrote, with its tests, in a fenced process; Linux only.

The program may read what the user may read and compute within its limits; it cannot start
processes, signal others, reach the network or write anywhere but to a small folder that is gone
with it. None of this makes hostile code safe on a machine with secrets: it keeps a model's
mistakes from doing harm. So nothing runs unless the caller has made a ``CodeLimits``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError

DEFAULT_TIME_S: Final = 5.0
DEFAULT_MEMORY_BYTES: Final = 512 * 2**20

_JAIL: Final = Path(__file__).with_name("jail.py")
_NO_FENCE: Final = 3  # jail.py's
_OUT_OF_TIME: Final = (None, 4, -signal.SIGKILL, 256 - signal.SIGKILL)  # the CPU limit kills
_START_S: Final = 5.0  # for two interpreters on a busy machine, beside the program's own time
_MAX_ANSWER_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLimits:
    """What a program may use; to make one is to allow that programs run.

    Raises:
        ConfigError: If a limit is not positive or absurdly large, or this is not Linux.
    """

    time_s: float = DEFAULT_TIME_S
    """Seconds of the clock, and of CPU rounded up, without the start of the interpreter."""

    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Of address space."""

    file_bytes: int = 2**20
    """Of each file that it writes; 16 MiB for all."""

    allow_network: bool = False
    """Run also where the kernel gives no namespaces: the program then has the network and all
    rights of the user on files. Its other limits hold."""

    def __post_init__(self) -> None:
        for name, most in (("time_s", 86_400), ("memory_bytes", 2**50), ("file_bytes", 2**50)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise ConfigError(f"{name} must be above 0 and at most {most}, got {value!r}")
        if not sys.platform.startswith("linux"):
            raise ConfigError(f"programs are run on Linux only, not on {sys.platform}")


@dataclass(frozen=True, slots=True)
class CodeResult:
    """How one program ended."""

    passed: bool
    reason: str
    """Why it did not pass; empty if it did."""


def run_program(source: str, limits: CodeLimits) -> CodeResult:
    """Run a program to its end, alone in an empty folder without stdin, stdout or stderr.

    Args:
        source: Python with its tests; it passes if it raises nothing and does not leave early.
            It sees the standard library and no installed package.
        limits: What it may use.

    Raises:
        ConfigError: If the fences cannot be put up here; nothing has run then.
    """
    token = secrets.token_hex(16)
    request = json.dumps({"source": source, "time_s": limits.time_s, "token": token}).encode()
    for fences in ("namespaces", "limits") if limits.allow_network else ("namespaces",):
        status, answer = _run_jail(request, fences, limits)
        if status != _NO_FENCE:
            return _verdict(status, answer, token)
    reason = answer.decode(errors="replace").strip()
    raise ConfigError(
        f"the program was not run: {reason}. Run where unprivileged user namespaces are allowed, "
        "or in a container of its own with allow_network=True, which does without them"
    )


def _run_jail(request: bytes, fences: str, limits: CodeLimits) -> tuple[int | None, bytes]:
    """The exit status (None: out of time) and the start of the answer."""
    command = [
        sys.executable, "-I", "-S", str(_JAIL), str(limits.memory_bytes),
        str(math.ceil(limits.time_s)), str(limits.file_bytes), fences,
    ]  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="starr-engine-") as folder,
        tempfile.TemporaryFile() as stdin,
    ):
        stdin.write(request)
        stdin.seek(0)
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,  # one group, which nothing in it can leave
        )
        try:
            answer, is_over = _read(process, limits.time_s + _START_S)
        finally:
            _kill_group(process)
        return (process.returncode if is_over else None), answer


def _read(process: subprocess.Popen[bytes], time_s: float) -> tuple[bytes, bool]:
    """What comes until the end, and whether the end came in time and in bounds."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    deadline = time.monotonic() + time_s
    answer = b""
    with process.stdout:
        while len(answer) < _MAX_ANSWER_BYTES:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return answer, False
            piece = os.read(pipe, _MAX_ANSWER_BYTES)
            if not piece:
                process.wait(max(0.1, deadline - time.monotonic()))
                return answer, True
            answer += piece
    return b"", False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdict(status: int | None, answer: bytes, token: str) -> CodeResult:
    try:
        said = json.loads(answer)
        if said["token"] == token:
            return CodeResult(passed=not said["problem"], reason=said["problem"])
    except (ValueError, KeyError, TypeError):
        pass
    if status in _OUT_OF_TIME:
        return CodeResult(passed=False, reason="out of time")
    return CodeResult(passed=False, reason="left before its tests were over")
