"""The engine that cells run on, and a meter around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from starr_engine.config import EngineConfig
from starr_engine.offline.rows import Encoder
from starr_engine.outputs import BlockOutput, RequestOutput
from starr_engine.params import Args, SamplingParams
from starr_engine.study.runner import StudyEngine


class PageCounts(Protocol):
    """The part of ``EngineStats`` that the meter reads."""

    @property
    def num_steps(self) -> int:
        """Forwards since the engine was made."""

    @property
    def num_pages(self) -> int:
        """Of the pool."""

    @property
    def num_free_pages(self) -> int:
        """Of these."""


class CountingEngine(StudyEngine, Protocol):
    """An engine that says what it has done."""

    def stats(self) -> PageCounts:
        """What it has done and holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One loaded model."""

    engine: CountingEngine

    get_tokenizer: Callable[[], Encoder]
    """Raises RequestError if the model has none."""

    page_bytes: int
    """Of keys and values of one page, over all layers."""

    reset_device: Callable[[], None] = lambda: None
    """Forget the most memory that the device has held."""

    device_bytes: Callable[[], int | None] = lambda: None
    """The most since then; None without a device of its own."""


MakeBench = Callable[[str, int, Args], Bench]
"""From model, batch size and the other fields of ``EngineConfig``."""


def open_bench(model: str, batch_size: int, options: Args) -> Bench:
    """Load a model.

    Raises:
        StarrError: If it cannot be loaded.
    """
    import torch

    from starr_engine.engine.loading import spec_page_bytes
    from starr_engine.llm import LLM

    llm = LLM(model, max_num_requests=batch_size, **options)
    engine = llm.engine
    dtype = getattr(torch, engine.config.dtype)
    page_bytes = spec_page_bytes(engine.spec, engine.config.page_size, dtype)

    def get_tokenizer() -> Encoder:
        return llm.tokenizer

    if engine.device.type != "cuda":
        return Bench(engine=engine, get_tokenizer=get_tokenizer, page_bytes=page_bytes)
    return Bench(
        engine=engine,
        get_tokenizer=get_tokenizer,
        page_bytes=page_bytes,
        reset_device=lambda: torch.cuda.reset_peak_memory_stats(engine.device),
        device_bytes=lambda: torch.cuda.max_memory_allocated(engine.device),
    )


class Meter:
    """An engine as a study sees it, that watches pages between steps.

    Args:
        engine: Does the work.
    """

    def __init__(self, engine: CountingEngine) -> None:
        self._engine = engine
        self._first_step = engine.stats().num_steps
        self.most_pages = 0

    @property
    def config(self) -> EngineConfig:
        """The engine's settings."""
        return self._engine.config

    @property
    def num_steps(self) -> int:
        """Forwards since the meter was made."""
        return self._engine.stats().num_steps - self._first_step

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
    ) -> str:
        """As the engine does."""
        return self._engine.add_request(prompt_token_ids, params, request_id)

    def step(self) -> Sequence[BlockOutput | RequestOutput]:
        """As the engine does; pages of requests that end with it were seen the step before."""
        outputs = self._engine.step()
        stats = self._engine.stats()
        self.most_pages = max(self.most_pages, stats.num_pages - stats.num_free_pages)
        return outputs

    def abort(self, request_id: str) -> RequestOutput | None:
        """As the engine does."""
        return self._engine.abort(request_id)
