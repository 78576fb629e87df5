"""Replicas without Ray and without engines, which do what a test says; and a fleet of them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError

from starr_engine.config import ResolvedConfig
from starr_engine.distributed.fleet import ReplicaFleet
from starr_engine.distributed.member import Ticket
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.replica import EncodedRequest, End, ReplicaInfo
from starr_engine.infilling import TokenPrompt
from starr_engine.outputs import BlockOutput, FinishReason, RequestOutput
from starr_engine.params import SamplingParams

LIMIT_S = 20.0
"""A test that waits longer has found something wrong."""

BLOCK = 4
BATCH_SIZE = 4


class Method:
    """``actor.name.remote(...)`` gives something to await."""

    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote


class FakeReplica:
    """Gives each of its requests a block when the test allows one.

    Args:
        first_token: What the tokens of its outputs begin with.
        load_error: Raised instead of loading.
    """

    def __init__(self, first_token: int = 0, load_error: Exception | None = None) -> None:
        for name in ("load", "start", "end", "events", "stats"):
            setattr(self, name, Method(getattr(self, f"_{name}")))
        self._first_token = first_token
        self._load_error = load_error
        self.may_load = threading.Event()
        self.may_load.set()
        self.error: Exception | None = None
        """Raised by every call from now on."""

        self.event_error: Exception | None = None
        """What all its requests end with."""

        self.hangs = False
        self.is_ended = False
        self.num_blocks = 0
        """That each request may still get."""

        self.requests: dict[int, EncodedRequest] = {}
        self.given: dict[int, int] = {}
        self.ended: list[int] = []

    def die(self) -> None:
        self.error = ActorDiedError()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if self.error is not None:
                raise self.error
            await asyncio.sleep(0.001)

    async def _load(self) -> ReplicaInfo:
        if self._load_error is not None:
            raise self._load_error
        await self._until(self.may_load.is_set)
        config = ResolvedConfig(
            max_model_len=64,
            page_size=BLOCK,
            num_pages=9,
            ridge_tokens=0,
            max_num_requests=BATCH_SIZE,
        )
        spec: Any = None
        return ReplicaInfo(config=config, spec=spec, tokenizer=None, process_id=1)

    async def _start(self, key: int, request: EncodedRequest) -> None:
        await self._until(lambda: True)
        self.requests[key] = request
        self.given[key] = 0

    async def _end(self, key: int) -> None:
        self.ended.append(key)
        self.requests.pop(key, None)

    async def _stats(self) -> Any:
        await self._until(lambda: not self.hangs)
        if self.error is not None:
            raise self.error
        return None

    async def _events(self) -> list[tuple[int, Any]]:
        await self._until(lambda: bool(self.requests) and bool(self.num_blocks or self.event_error))
        if self.error is not None:
            raise self.error
        if self.event_error is not None:
            ended = [(key, End(self.event_error)) for key in self.requests]
            self.requests.clear()
            return ended
        self.num_blocks -= 1
        return [event for key in list(self.requests) for event in self._block(key)]

    def _block(self, key: int) -> list[tuple[int, Any]]:
        request = self.requests[key]
        name, index = request.request_id, self.given[key]
        tokens = [range(self._first_token + i * BLOCK, self._first_token + (i + 1) * BLOCK)
                  for i in range(index + 1)]  # fmt: skip
        self.given[key] += 1
        block = BlockOutput(
            request_id=name,
            block_index=index,
            token_ids=tuple(tokens[-1]),
            text="",
            num_forwards=index + 1,
        )
        if (index + 1) * BLOCK < request.params.max_tokens:
            return [(key, block)]
        del self.requests[key]
        output = RequestOutput(
            request_id=name, prompt_token_ids=(1,), text="", finish_reason=FinishReason.LENGTH,
            token_ids=tuple(token for each in tokens for token in each),
            nfe=index + 1, num_unmasked=1, computed_rows=1, cache_label="exact", latency_s=0.0,
        )  # fmt: skip
        return [(key, block), (key, output), (key, End(None))]


class FakeFleet:
    """A fleet, its replicas in the order in which they were started, and requests to it."""

    def __init__(self, options: Replicas, make: Callable[[int], FakeReplica]) -> None:
        self.actors: list[FakeReplica] = []

        def start() -> FakeReplica:
            self.actors.append(make(len(self.actors)))
            return self.actors[-1]

        def end(actor: FakeReplica) -> None:
            actor.is_ended = True
            actor.die()

        self.fleet = ReplicaFleet(options, start, end)

    def ask(self, name: str, num_blocks: int = 2) -> tuple[Ticket, queue.Queue[Any]]:
        """Submit a request; its events come through the queue."""
        events: queue.Queue[Any] = queue.Queue()
        ticket = Ticket(
            request=EncodedRequest(
                candidates=(TokenPrompt(prompt_token_ids=(1,)),),
                params=SamplingParams(max_tokens=num_blocks * BLOCK, block_length=BLOCK),
                request_id=name,
                provisional=False,
            ),
            sink=events.put,
            prompt_tokens=1,
            new_tokens=num_blocks * BLOCK,
            num_requests=1,
        )
        self.fleet.submit(ticket)
        return ticket, events

    def wait(self, is_so: Callable[[], Any], what: str) -> None:
        for _ in range(int(LIMIT_S * 1000)):
            if is_so():
                return
            threading.Event().wait(0.001)
        raise AssertionError(f"waited {LIMIT_S:g} s for {what}")

    def wait_for_phases(self, **counts: int) -> None:
        def has() -> bool:
            phases = [replica.phase for replica in self.fleet.state().result(LIMIT_S).replicas]
            return all(phases.count(name) == count for name, count in counts.items())

        self.wait(has, f"replicas {counts}")

    def wait_for_requests(self, *counts: int) -> None:
        """Until replica i, counted from the first one, has counts[i] requests."""
        self.wait(
            lambda: [len(actor.requests) for actor in self.actors[: len(counts)]] == [*counts],
            f"requests {counts}",
        )


@contextmanager
def fake_fleet(
    make: Callable[[int], FakeReplica] = lambda number: FakeReplica(), **options: Any
) -> Iterator[FakeFleet]:
    made = FakeFleet(Replicas(**({"count": 2} | options)), make)
    try:
        yield made
    finally:
        made.fleet.close()
        assert all(actor.is_ended for actor in made.actors), "a replica is left"


def task_error(cause: Exception) -> RayTaskError:
    """What Ray raises of a call that raised."""
    return RayTaskError("load", "", cause)
