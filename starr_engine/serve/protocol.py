"""What the server needs of an engine, so that a remote one can stand in for ``AsyncLLM``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from starr_engine.config import EngineConfig
from starr_engine.engine.stats import EngineStats
from starr_engine.engine.thread import Event
from starr_engine.models.base import ModelSpec
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.prompts import Message, Prompt
from starr_engine.tokenization import Tokenizer


class ServedEngine(Protocol):
    """An engine that many callers use at once; see ``AsyncLLM`` for the meaning of each call.

    A call that is cancelled, or whose iterator is closed, must end its requests. Errors are those
    of ``AsyncLLM``: ``RequestError`` for one request, ``EngineDeadError`` for all.
    """

    @property
    def config(self) -> EngineConfig:
        """As resolved against the model."""

    @property
    def spec(self) -> ModelSpec:
        """Of the model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the checkpoint; the server spells single tokens with it."""

    def default_sampling_params(self) -> SamplingParams:
        """What the checkpoint's files ask for."""

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, request_id: str | None = None
    ) -> RequestOutput:
        """Complete one prompt."""

    async def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
    ) -> RequestOutput:
        """Answer one conversation."""

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        provisional: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Complete one prompt block by block."""

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        provisional: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Answer one conversation block by block."""

    async def stats(self) -> EngineStats:
        """What the engine has done, and what it holds now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One of several engines behind a server, which takes requests."""

    name: str
    """Never given to another one."""

    num_requests: int
    """Given to it by this server and unfinished."""

    outstanding_tokens: int
    """Of these, still to be computed, as routing weighs them."""

    stats: EngineStats
    """What it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """Several engines, together."""

    replicas: tuple[ReplicaState, ...]
    """Those that are ready."""

    num_starting: int
    num_draining: int
    """Replicas that finish what they have and take no more."""

    num_waiting: int
    """Requests that wait until a replica is ready."""

    num_deaths: int
    """Replicas that died while they ran requests of this server."""

    num_reruns: int
    """Requests that ran again because their replica had died."""

    @property
    def is_ready(self) -> bool:
        """Whether a request could begin now."""
        return bool(self.replicas)


class Fleet(Protocol):
    """What an engine that stands for several also has."""

    async def fleet(self) -> FleetState:
        """How they are now.

        Raises:
            EngineDeadError: If none lives and none will.
        """
