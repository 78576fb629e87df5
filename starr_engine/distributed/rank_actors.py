"""Ranks as Ray actors, one in each bundle of the placement group that rank 0 runs in."""

from __future__ import annotations

import contextlib
import socket
import time
from functools import cached_property
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, Final

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from starr_engine.engine.rank_hosts import RankHosts
from starr_engine.errors import ConfigError

_START_S: Final = 120.0
"""For an actor's process to come up, and to connect."""

_LOOK_S: Final = 0.5
"""So often it is looked whether an actor that has not connected is dead."""


class RankActors(RankHosts):
    """A ``RankGroup`` whose ranks are actors; they end with this object or its process.

    This process is rank 0, and has bundle 0 of its placement group; rank *n* gets bundle *n*. All
    are on one machine. Ray shows each actor its own GPU alone, which is its first.

    Args:
        count: Ranks, this process among them.
        device: ``cpu`` or ``cuda``, of all.

    Raises:
        ConfigError: If this process is in no placement group of so many bundles.
        EngineDeadError: If an actor ends before it is connected.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        group: Any = get_current_placement_group()
        bundles = [] if group is None else group.bundle_specs
        if len(bundles) != count:
            raise ConfigError(
                f"{count} ranks need a placement group of {count} bundles, and this actor has "
                f"{len(bundles)}"
            )
        first = torch.device("cuda", 0) if device.type == "cuda" else device

        def start(rank: int, meeting: Path) -> _Actor:
            bundle = bundles[rank]
            options = {
                "num_cpus": bundle.get("CPU", 0),
                "num_gpus": bundle.get("GPU", 0),
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank),
            }
            return _start(rank, count, first, meeting, options)

        super().__init__(count, device, start)


class _Rank:
    """What each of the actors is."""

    def follow(self, address: str, rank: int, count: int, device: str, meeting: str) -> None:
        """Be a rank until rank 0 says that it is over."""
        from starr_engine.engine.rank_worker import run_rank

        connection: Any = Client(address)
        run_rank(connection, rank, count, torch.device(device), Path(meeting))


class _Actor:
    """A ``RankHost``; all of them start before the first is waited for.

    Args:
        rank: From 1.
        actor: Of ``_Rank``.
        call: Of its ``follow``.
        listener: Where it connects.
    """

    def __init__(self, rank: int, actor: Any, call: Any, listener: socket.socket) -> None:
        self.rank: Final = rank
        self._actor: Final = actor
        self._call: Final = call
        self._listener: Final = listener

    @property
    def name(self) -> str:
        """Ray's for the actor."""
        return f"actor {self._actor._actor_id.hex()}"

    @cached_property
    def connection(self) -> Connection:
        """To the rank; waited for.

        Raises:
            ConnectionError: If it ends, or does not come in time.
        """
        deadline = time.monotonic() + _START_S
        with self._listener:
            while time.monotonic() < deadline and self.wait(0) is None:
                with contextlib.suppress(TimeoutError):
                    accepted, _ = self._listener.accept()
                    accepted.setblocking(True)
                    return Connection(accepted.detach())
        raise ConnectionError(f"rank {self.rank} has not connected within {_START_S:g} s")

    def wait(self, timeout_s: float | None = None) -> str | None:
        """How it ended."""
        try:
            ray.get(self._call, timeout=timeout_s)
        except GetTimeoutError:
            return None
        except RayTaskError as error:
            return f"failed: {error.cause}"
        except RayActorError:
            return "has died"
        finally:
            # Its work is over, and the process has nothing else to do.
            if ray.wait([self._call], timeout=0)[0]:
                self.kill()
        return "has ended"

    def kill(self) -> None:
        """End its process."""
        with contextlib.suppress(RayError):
            ray.kill(self._actor, no_restart=True)


def _start(
    rank: int, count: int, device: torch.device, meeting: Path, options: dict[str, Any]
) -> _Actor:
    # In rank 0's own folder, where no other user can connect.
    address = str(meeting.with_name(f"rank-{rank}"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(1)
    listener.settimeout(_LOOK_S)
    actor: Any = ray.remote(_Rank).options(max_restarts=0, **options).remote()
    call = actor.follow.remote(address, rank, count, str(device), str(meeting))
    return _Actor(rank, actor, call, listener)
