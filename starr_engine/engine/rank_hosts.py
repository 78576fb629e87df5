"""Ranks as somebody hosts them: what is the same for processes, actors and whatever else runs them.

Hosts are on the machine of rank 0: it talks with each over a socket, and ranks find each other for
collectives through a file in a folder of rank 0's user. Nothing that crosses is pickled: settings
are JSON, batches are numbers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol, cast

import torch

from starr_engine.engine.rank_group import failure
from starr_engine.errors import EngineDeadError
from starr_engine.layers.ranks import Collectives, Ranks

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=5)
"""Ranks that wait longer for each other within a step, or while they connect, give up."""

_END_S: Final = 10.0
"""A rank that was told to end and has not after so long is killed."""

_CLOSED: Final = "the engine is closed"


class RankHost(Protocol):
    """Where one of the other ranks runs."""

    @property
    def rank(self) -> int:
        """From 1."""
        ...

    @property
    def name(self) -> str:
        """For messages, such as ``process 17``."""
        ...

    @property
    def connection(self) -> Connection:
        """To the rank."""
        ...

    def wait(self, timeout_s: float | None = None) -> str | None:
        """How it ended, in words; None if it has not after so many seconds."""
        ...

    def kill(self) -> None:
        """End it, whatever it does; :meth:`wait` is soon over then."""
        ...


StartHost = Callable[[int, Path], RankHost]
"""Starts a rank, which is to meet the others at a file; does not wait for it."""


@dataclass(slots=True)
class _Life:
    """What threads that wait for ranks to end say to rank 0."""

    death: str | None = None
    is_ending: bool = False
    """Whether an end is no death."""

    ended: threading.Event = field(default_factory=threading.Event)


class RankHosts:
    """A ``RankGroup`` whose ranks end with this object or its process.

    Args:
        count: Ranks, this process among them.
        device: ``cpu`` for all, or ``cuda`` for one GPU each, rank 0 on the first that it sees.
        start: Starts each of the others.

    Raises:
        EngineDeadError: If a rank ends before it is connected.
    """

    ranks: Ranks

    def __init__(self, count: int, device: torch.device, start: StartHost) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="starr-engine-"))
        self._hosts: list[RankHost] = []
        self._life = _Life()
        self._end = weakref.finalize(self, _end, self._life, self._hosts, self._folder)
        meeting = self._folder / "ranks"
        try:
            for rank in range(1, count):
                self._hosts.append(start(rank, meeting))
            for host in self._hosts:
                watch = (self._life, host)
                threading.Thread(target=_watch, args=watch, daemon=True).start()
            self.hear()  # all are there
            self.ranks = connect(0, count, rank_device(device, 0), meeting)
        except BaseException:
            self.close()
            raise
        break_off = (self._life, self.ranks.collectives)
        threading.Thread(target=_break_off, args=break_off, daemon=True).start()

    def tell(self, message: bytes) -> None:
        """See ``RankGroup``; so for all others."""
        for host in self._hosts:
            host.connection.send_bytes(message)

    def hear(self) -> list[bytes]:
        """The next answer of each."""
        try:
            return [host.connection.recv_bytes() for host in self._hosts]
        except (EOFError, OSError) as error:
            raise EngineDeadError(self.death(_END_S) or "a rank closed its socket") from error

    def death(self, patience_s: float = 0.0) -> str | None:
        """Why it is of no use, with the last words of the dead."""
        life = self._life
        if patience_s and life.death is None:
            life.ended.wait(patience_s)
        if life.death is not None and not life.is_ending:
            words = [said for host in self._hosts if (said := _last_words(host))]
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
        for host in self._hosts:
            host.kill()
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


def _watch(life: _Life, host: RankHost) -> None:
    """Note the end of a rank that was not told to end."""
    how = host.wait()
    if not life.is_ending and life.death is None:
        life.death = f"rank {host.rank} ({host.name}) {how}"
    life.ended.set()


def _break_off(life: _Life, collectives: Any) -> None:
    """End what waits for a rank that has died: on CUDA it would wait until the time limit."""
    life.ended.wait()
    if not life.is_ending:
        collectives.abort()


def _last_words(host: RankHost) -> str | None:
    """What a rank said of its end, which nobody has heard yet."""
    with contextlib.suppress(EOFError, OSError):
        if host.connection.poll():
            return failure(json.loads(host.connection.recv_bytes()))
    return None


def _end(life: _Life, hosts: Sequence[RankHost], folder: Path) -> None:
    """Also when the group is forgotten, or the interpreter ends."""
    life.is_ending = True
    for host in hosts:
        with contextlib.suppress(OSError):
            host.connection.send_bytes(b"")
    for host in hosts:
        if host.wait(_END_S) is None:
            host.kill()
            host.wait()
        with contextlib.suppress(OSError):
            host.connection.close()
    shutil.rmtree(folder, ignore_errors=True)
