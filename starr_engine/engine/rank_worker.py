"""A rank that owns no requests: loads its share, then runs every batch that it is told.

What it is told, and answers: settings to load by (JSON) -> the memory left, pages to make (JSON) ->
nothing, then batches, which are not answered. When it cannot go on it says why and ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import torch

from starr_engine.engine.executor import Executor
from starr_engine.engine.loading import make_backends, make_pages
from starr_engine.engine.memory import free_memory
from starr_engine.engine.rank_group import Channel, failed
from starr_engine.engine.rank_hosts import connect
from starr_engine.engine.step_arrays import read_message
from starr_engine.engine.step_batch import StepBatch
from starr_engine.layers.ranks import Ranks
from starr_engine.models.loading.loader import build_model, fill_model


def follow(channel: Channel, ranks: Ranks, device: torch.device) -> None:
    """Do what rank 0 tells until it tells nothing more.

    Args:
        channel: To rank 0.
        ranks: Of this rank.
        device: Where it computes.
    """
    try:
        executor = _load(channel, ranks, device)
        if executor is None:
            return
        while message := channel.receive():
            batch = StepBatch.of_other_rank(*read_message(message, device))
            executor.forward(executor.upload(batch))
    except BaseException as error:
        channel.answer(failed(error))
        raise


def _load(channel: Channel, ranks: Ranks, device: torch.device) -> Executor | None:
    """None if rank 0 has ended before."""
    if not (message := channel.receive()):
        return None
    wanted = json.loads(message)
    if wanted["num_threads"] is not None:
        torch.set_num_threads(wanted["num_threads"])
    dtype: torch.dtype = getattr(torch, wanted["dtype"])
    folder = Path(wanted["folder"])
    model = build_model(folder, mask_block_length=wanted["mask_block_length"])
    model.split(ranks)
    fill_model(model, folder, device, dtype, load_format=wanted["load_format"])
    free = free_memory(device) if device.type == "cuda" else 0
    channel.answer(json.dumps({"free_bytes": free}).encode())
    if not (message := channel.receive()):
        return None
    pages = json.loads(message)
    name, page_size = pages["attention_backend"], pages["page_size"]
    backends = make_backends(name, model.spec_here, page_size, dtype, device)
    kv_pool = make_pages(model, dtype, device, num_pages=pages["num_pages"], page_size=page_size)
    channel.answer(b"{}")
    return Executor(model, kv_pool, backends)


class _Socket:
    """A channel that ends the process with rank 0, whatever it is doing."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Final = connection
        self._told: Final[queue.SimpleQueue[bytes]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Read all that comes, in a thread: the main one may be waiting for a dead rank."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        message = b"-"
        while message:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)
            self._told.put(message)

    def receive(self) -> bytes:
        """See ``Channel``; so for the other."""
        return self._told.get()

    def answer(self, message: bytes) -> None:
        """To rank 0."""
        self._connection.send_bytes(message)


def run_rank(
    connection: Connection, rank: int, count: int, device: torch.device, meeting: Path
) -> None:
    """Be a rank from its start to its end; the process ends at once if rank 0 does.

    Args:
        connection: To rank 0.
        rank: From 1.
        count: Ranks.
        device: Of this one.
        meeting: File where ranks meet.
    """
    channel = _Socket(connection)
    channel.answer(b"{}")
    channel.listen()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    follow(channel, connect(rank, count, device, meeting), device)


def main() -> None:
    """Arguments: file descriptor of the socket, rank, ranks, device, file where ranks meet."""
    number, rank, count, device, meeting = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what an interrupt ends
    connection, where = Connection(int(number)), torch.device(device)
    status = 1
    try:
        run_rank(connection, int(rank), int(count), where, Path(meeting))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # to take the interpreter down would take longer, and others are waiting


if __name__ == "__main__":
    main()
