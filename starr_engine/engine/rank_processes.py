"""Ranks as processes of this machine, started and ended by rank 0.

Every process has a pair of sockets to rank 0 that nobody else can reach; ranks find each other for
collectives through a file in a folder of rank 0's user. Nothing that crosses is pickled: settings
are JSON, batches are numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import torch

from starr_engine.engine.rank_group import failure
from starr_engine.errors import EngineDeadError
from starr_engine.layers.ranks import Collectives, Ranks

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=5)
"""Ranks that wait longer for each other within a step, or while they connect, give up."""

_END_S: Final = 10.0
"""A rank that was told to end and has not after so long is killed."""

_CLOSED: Final = "the engine is closed"


@dataclass(frozen=True, slots=True)
class _Member:
    """One other rank."""

    rank: int
    process: subprocess.Popen[bytes]
    connection: Connection


@dataclass(slots=True)
class _Life:
    """What threads that wait for ranks to end say to rank 0."""

    death: str | None = None
    is_ending: bool = False
    """Whether an end is no death."""

    ended: threading.Event = field(default_factory=threading.Event)


class RankProcesses:
    """A ``RankGroup`` whose ranks are processes that end with this object or its process.

    Args:
        count: Ranks, this process among them.
        device: ``cpu`` for all, or ``cuda`` for one GPU each, rank 0 on the first.

    Raises:
        EngineDeadError: If a process ends before it is connected.
    """

    ranks: Ranks

    def __init__(self, count: int, device: torch.device) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="starr-engine-"))
        self._members: list[_Member] = []
        self._life = _Life()
        self._end = weakref.finalize(self, _end, self._life, self._members, self._folder)
        meeting = self._folder / "ranks"
        try:
            for rank in range(1, count):
                self._members.append(_start(rank, count, device, meeting))
            for member in self._members:
                watch = (self._life, member)
                threading.Thread(target=_watch, args=watch, daemon=True).start()
            self.hear()  # all are there
            self.ranks = connect(0, count, rank_device(device, 0), meeting)
        except BaseException:
            self.close()
            raise
        break_off = (self._life, self.ranks.collectives)
        threading.Thread(target=_break_off, args=break_off, daemon=True).start()

    @property
    def process_ids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [member.process.pid for member in self._members]

    def tell(self, message: bytes) -> None:
        """See ``RankGroup``; so for all others."""
        for member in self._members:
            member.connection.send_bytes(message)

    def hear(self) -> list[bytes]:
        """The next answer of each."""
        try:
            return [member.connection.recv_bytes() for member in self._members]
        except (EOFError, OSError) as error:
            raise EngineDeadError(self.death(_END_S) or "a rank closed its socket") from error

    def death(self, patience_s: float = 0.0) -> str | None:
        """Why it is of no use, with the last words of the dead."""
        life = self._life
        if patience_s and life.death is None:
            life.ended.wait(patience_s)
        if life.death is not None and not life.is_ending:
            words = [said for member in self._members if (said := _last_words(member))]
            self._abandon("".join([life.death, *(f": {said}" for said in words)]))
        return life.death

    def close(self) -> None:
        """Let all end."""
        self._life.is_ending = True
        self._life.death = self._life.death or _CLOSED
        self._end()

    def abandon(self, reason: str) -> None:
        """End all now."""
        if not self._life.is_ending:
            self._abandon(self._life.death or reason)

    def _abandon(self, reason: str) -> None:
        self._life.is_ending = True
        self._life.death = reason
        for member in self._members:
            member.process.kill()
        self._end()


def rank_device(device: torch.device, rank: int) -> torch.device:
    """Where a rank computes: the CPU, or the GPU of its number."""
    return torch.device("cuda", rank) if device.type == "cuda" else device


def connect(rank: int, count: int, device: torch.device, meeting: Path) -> Ranks:
    """Wait for all ranks, and make the group through which they exchange tensors.

    Args:
        rank: From 0.
        count: Ranks.
        device: Of this rank; NCCL on CUDA, else gloo over the loopback address.
        meeting: A file that all ranks can write, not there before the first.
    """
    from torch import distributed as torch_distributed

    distributed: Any = torch_distributed  # its stubs lack most of what is used here
    store = distributed.FileStore(str(meeting), count)
    if device.type == "cuda":
        nccl = distributed.ProcessGroupNCCL.Options()
        nccl._timeout = COLLECTIVE_TIMEOUT
        made = distributed.ProcessGroupNCCL(store, rank, count, nccl)
    else:
        group = distributed.ProcessGroupGloo
        gloo = group._Options()
        gloo._devices = [group.create_device(hostname="127.0.0.1")]
        gloo._timeout = COLLECTIVE_TIMEOUT
        made = group(store, rank, count, gloo)
    ranks = Ranks(rank=rank, count=count, collectives=cast(Collectives, made))
    met = ranks.sum(torch.ones(1, device=device))
    assert met.item() == count
    return ranks


def _start(rank: int, count: int, device: torch.device, meeting: Path) -> _Member:
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
        return _Member(rank, process, Connection(ours.detach()))


def _watch(life: _Life, member: _Member) -> None:
    """Note the end of a rank that was not told to end."""
    status = member.process.wait()
    how = f"ended with exit status {status}"
    if status < 0:
        how = f"was ended by signal {signal.Signals(-status).name}"
    if not life.is_ending and life.death is None:
        life.death = f"rank {member.rank} (process {member.process.pid}) {how}"
    life.ended.set()


def _break_off(life: _Life, collectives: Any) -> None:
    """End what waits for a rank that has died: on CUDA it would wait until the time limit."""
    life.ended.wait()
    if not life.is_ending:
        collectives.abort()


def _last_words(member: _Member) -> str | None:
    """What a rank said of its end, which nobody has heard yet."""
    with contextlib.suppress(EOFError, OSError):
        if member.connection.poll():
            return failure(json.loads(member.connection.recv_bytes()))
    return None


def _end(life: _Life, members: Sequence[_Member], folder: Path) -> None:
    """Also when the group is forgotten, or the interpreter ends."""
    life.is_ending = True
    for member in members:
        with contextlib.suppress(OSError):
            member.connection.send_bytes(b"")
    for member in members:
        try:
            member.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
        member.connection.close()
    shutil.rmtree(folder, ignore_errors=True)
