"""The processes that the blocks of one page start, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).parents[2]
_BIN: Final = Path(sys.executable).parent


class Processes:
    """Starts processes in one folder, with the checkout and its environment's commands in reach.

    Args:
        folder: Their working folder.
        log: What they write, both streams, is appended to it.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._started: list[subprocess.Popen[bytes]] = []
        log.touch()
        self._num_read = 0

    def start(self, words: list[str], pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        """One that leads a group of its own."""
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                words,
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self._started.append(process)
        return process

    def written(self) -> str:
        """What has been written since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._num_read)
            new = log.read()
        self._num_read += len(new)
        return new.decode(errors="replace")

    def close(self) -> None:
        """End all of them, and what they have started."""
        for process in self._started:
            descendants: list[psutil.Process] = []
            with suppress(psutil.NoSuchProcess):
                descendants = psutil.Process(process.pid).children(recursive=True)
            # A group outlives its leader: it holds what a shell has left in the background.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for descendant in descendants:
                with suppress(psutil.NoSuchProcess):
                    descendant.kill()
            process.wait()
        self._started.clear()


def _environment() -> dict[str, str]:
    paths = {"PATH": str(_BIN), "PYTHONPATH": str(ROOT)}
    joined = {
        name: f"{path}{os.pathsep}{os.environ[name]}" if os.environ.get(name) else path
        for name, path in paths.items()
    }
    return {**os.environ, **joined, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
