"""Ranks as processes of this machine, started and ended by rank 0.

Every process has a pair of sockets to rank 0 that nobody else can reach.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from starr_engine.engine.rank_hosts import RankHosts, rank_device


class RankProcesses(RankHosts):
    """A ``RankGroup`` whose ranks are processes that end with this object or its process.

    Args:
        count: Ranks, this process among them.
        device: ``cpu`` for all, or ``cuda`` for one GPU each, rank 0 on the first.

    Raises:
        EngineDeadError: If a process ends before it is connected.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        super().__init__(count, device, lambda rank, meeting: _start(rank, count, device, meeting))

    @property
    def process_ids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [host.process.pid for host in self._hosts if isinstance(host, _Process)]


@dataclass(frozen=True, slots=True)
class _Process:
    """A ``RankHost``."""

    rank: int
    process: subprocess.Popen[bytes]
    connection: Connection

    @property
    def name(self) -> str:
        return f"process {self.process.pid}"

    def wait(self, timeout_s: float | None = None) -> str | None:
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if status < 0:
            return f"was ended by signal {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def kill(self) -> None:
        self.process.kill()


def _start(rank: int, count: int, device: torch.device, meeting: Path) -> _Process:
    ours, theirs = socket.socketpair()
    # What can be imported here can be there, also in a notebook.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    numbers = (theirs.fileno(), rank, count)
    with ours, theirs:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "starr_engine.engine.rank_worker"),
                *(map(str, numbers)),
                *(str(rank_device(device, rank)), str(meeting)),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        return _Process(rank, process, Connection(ours.detach()))
