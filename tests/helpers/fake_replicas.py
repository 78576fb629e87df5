"""Replicas without Ray and without engines, which do what a test says; and the front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError

from starr_engine.config import ResolvedConfig
from starr_engine.distributed.ledger import Ticket
from starr_engine.distributed.replay import Event
from starr_engine.distributed.replica import End, ReplicaInfo, ReplicaReport
from starr_engine.distributed.replicated import ReplicatedLLM
from starr_engine.engine.stats import EngineStats
from starr_engine.infilling import TokenPrompt
from starr_engine.outputs import BlockOutput, FinishReason, RequestOutput
from starr_engine.params import SamplingParams

LIMIT_S = 20.0
"""A test that waits longer has found something wrong."""

BLOCK = 4
PROMPT = (TokenPrompt(prompt_token_ids=(1,)),)


class FakeReplica:
    """Gives each of its requests a block when the test allows one.

    Args:
        name: Serve's for it.
        first_token: What the tokens of its outputs begin with.
    """

    def __init__(self, name: str, first_token: int = 0) -> None:
        self.name = name
        self.first_token = first_token
        self.error: Exception | None = None
        """Raised by every call from now on."""

        self.num_blocks = 0
        """That each request has been allowed."""

        self.end: End | None = None
        """What all its requests end with."""

        self.is_stopped = False
        """All its streams end without a word."""

        self.calls: list[FakeCall] = []
        self.begun: list[str] = []
        """Names of all requests that it was given."""

    def die(self) -> None:
        self.error = ActorDiedError()

    @property
    def names(self) -> list[str]:
        """Of its requests."""
        return [call.ticket.request.request_id for call in self.calls]


class FakeCall:
    """What ``handle.run.remote(ticket)`` gives."""

    def __init__(self, deployment: FakeDeployment, ticket: Ticket) -> None:
        self._deployment = deployment
        self._replica: FakeReplica | None = None
        self.ticket = ticket
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        if self._replica and self in self._replica.calls:
            self._replica.calls.remove(self)

    async def __aiter__(self) -> AsyncGenerator[list[Event | End], None]:
        replica = self._replica = await self._routed()
        replica.calls.append(self)
        replica.begun.append(self.ticket.request.request_id)
        for index in range(self.ticket.new_tokens // BLOCK):
            while replica.num_blocks <= index or replica.error:
                if replica.error is not None:
                    raise replica.error
                if replica.is_stopped:
                    return
                if replica.end is not None:
                    replica.calls.remove(self)
                    yield [replica.end]
                    return
                await asyncio.sleep(0.001)
            yield [self._block(replica, index)]
        replica.calls.remove(self)
        yield [self._output(replica), End(None)]

    async def _routed(self) -> FakeReplica:
        deployment = self._deployment
        while True:
            if deployment.is_failed:
                raise DeploymentUnavailableError("Engine")
            listed = {each.name: each for each in deployment.listed}
            name = self.ticket.ledger.place(self.ticket, list(listed)) if listed else None
            if name is not None:
                return listed[name]
            await asyncio.sleep(0.001)

    def _block(self, replica: FakeReplica, index: int) -> BlockOutput:
        first = replica.first_token + index * BLOCK
        return BlockOutput(
            request_id=self.ticket.request.request_id, block_index=index, text="",
            token_ids=tuple(range(first, first + BLOCK)), num_forwards=index + 1,
        )  # fmt: skip

    def _output(self, replica: FakeReplica) -> RequestOutput:
        first, count = replica.first_token, self.ticket.new_tokens
        return RequestOutput(
            request_id=self.ticket.request.request_id, prompt_token_ids=(1,), text="",
            finish_reason=FinishReason.LENGTH, token_ids=tuple(range(first, first + count)),
            nfe=1, num_unmasked=1, computed_rows=1, cache_label="exact", latency_s=0.0,
        )  # fmt: skip


class FakeDeployment:
    """A handle of Serve's, the replicas behind it, and the front before it.

    Args:
        replicas: Of which Serve knows at the start.
    """

    deployment_name = "Engine"

    def __init__(self, *replicas: FakeReplica) -> None:
        self.listed = [*replicas]
        """Those that Serve believes to live."""

        self.is_failed = False
        config = ResolvedConfig(
            max_model_len=64, page_size=BLOCK, num_pages=9, ridge_tokens=0, max_num_requests=4
        )
        spec: Any = SimpleNamespace(mask_block=None)
        handle: Any = self
        info = ReplicaInfo(config=config, spec=spec, tokenizer=None)
        self.front = ReplicatedLLM(handle, info, "app")

    def options(self, **options: Any) -> FakeDeployment:
        assert options == {"method_name": "run", "stream": True}
        return self

    def remote(self, ticket: Ticket) -> FakeCall:
        return FakeCall(self, ticket)

    def broadcast(self, method: str) -> Any:
        assert method == "report"

        async def results_async(**options: Any) -> list[Any]:
            if not self.listed:
                raise DeploymentUnavailableError("Engine")
            return [
                each.error
                or ReplicaReport(name=each.name, process_id=1, stats=EngineStats.total([]))
                for each in self.listed
            ]

        return SimpleNamespace(results_async=results_async)

    def ask(self, name: str, num_blocks: int = 2) -> Stream:
        """Submit a request."""
        params = SamplingParams(max_tokens=num_blocks * BLOCK, block_length=BLOCK)
        return Stream(self.front.events(PROMPT, params, name, provisional=False))

    def ticket(self, name: str) -> Ticket:
        """Of a request that nobody has submitted."""
        return self.front._ticket(PROMPT, SamplingParams(), name, provisional=False)

    def load(self, name: str) -> tuple[int, int]:
        """Requests and outstanding tokens of a replica, as the front counts them."""
        found = self.front._ledger.outstanding(name)
        return found.num_requests, found.tokens


class Stream:
    """The events of a request, which runs also while nobody reads them."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._read: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(self._run(events))

    async def _run(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async for event in events:
                self._read.put_nowait(event)
        except Exception as error:
            self._read.put_nowait(error)
        finally:
            await events.aclose()

    async def get(self) -> Any:
        """The next event; an error is raised."""
        async with asyncio.timeout(LIMIT_S):
            event = await self._read.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def blocks(self, count: int) -> list[int]:
        """First tokens of the next events, which are blocks."""
        found = [await self.get() for _ in range(count)]
        assert all(isinstance(event, BlockOutput) for event in found), found
        return [event.token_ids[0] for event in found]

    @property
    def is_empty(self) -> bool:
        return self._read.empty()


async def until(is_so: Callable[[], Any], what: str) -> None:
    for _ in range(int(LIMIT_S * 1000)):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"waited {LIMIT_S:g} s for {what}")
