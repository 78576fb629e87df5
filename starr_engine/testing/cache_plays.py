"""Random requests for tests of cache policies: canvas, pages and view are the engine's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch

from starr_engine._core import PagePool, PageTable
from starr_engine.cache.base import CachePolicy, StepKind, StepPlan
from starr_engine.decoding.base import REMASKING_POLICIES, RemaskingPolicy
from starr_engine.engine.running import RunningRequest
from starr_engine.params import SamplingParams
from starr_engine.request import Request

_MASK: Final = 0
_TOKEN: Final = 1
_PAGE_SIZE: Final = 8
_MAX_STEPS: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What is decoded, and by what kind of model."""

    seed: int
    prompt_len: int
    block_length: int

    mask_block: int | None
    """As in ``CacheView``."""

    logits_shift: int

    has_gap: bool
    """Whether the prompt is a gap between two texts; bidirectional models only."""

    scores_unmasked: bool
    """Whether the remasking policy looks at tokens again, and takes some of them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """One denoising step before it runs: the request, and the plan that it got."""

    step: int
    running: RunningRequest
    plan: StepPlan


def plays(mask_block: int | None, seeds: range) -> Iterator[Play]:
    """Requests of every kind for a model of this attention."""
    shifts = (0, 1) if mask_block is None else (0,)
    gaps = (False, True) if mask_block is None else (False,)
    for seed, shift, gap, scores in product(seeds, shifts, gaps, (False, True)):
        draw = random.Random(f"{seed}/{shift}/{gap}/{scores}")
        yield Play(
            seed=seed,
            prompt_len=draw.randrange(1, 22),
            block_length=mask_block or draw.choice((1, 5, 8)),
            mask_block=mask_block,
            logits_shift=shift,
            has_gap=gap,
            scores_unmasked=scores,
        )


def play_request(policy: CachePolicy, play: Play) -> Iterator[PlayedStep]:
    """Decode one random request to its end; each step is carried out after it was given.

    Any number of masks is unmasked at a step; under ``scores_unmasked`` tokens are masked again
    too. What a policy asks of a model, how far rows drift, is drawn.

    Raises:
        AssertionError: If the request is not done after 400 steps, which no plan can bring about.
    """
    draw = random.Random(play.seed)
    running = _start(policy, play)
    request, canvas = running.request, running.request.canvas
    for step in range(_MAX_STEPS):
        if canvas.block_start >= canvas.region_stop:
            return
        if running.pages is not None:
            grown = running.pages.try_grow(canvas.num_live)
            assert grown, "the pool holds the whole canvas"
        plan = running.plan()
        yield PlayedStep(step=step, running=running, plan=plan)
        block = canvas.active_block
        masks = np.flatnonzero(block == _MASK)
        count = draw.choice((1, 1, 2, len(masks)))
        chosen = draw.sample(masks.tolist(), min(count, len(masks)))
        taken_back: list[int] = []
        if play.scores_unmasked and draw.random() < 0.2:
            fixed = canvas.is_fixed[canvas.block_start : canvas.block_stop]
            taken_back = np.flatnonzero((block != _MASK) & ~fixed).tolist()[:1]
        _change(running, plan, sorted(chosen), taken_back)
        is_refresh = plan.kind in (StepKind.REFRESH, StepKind.PREFILL)
        request.drift_since_refresh += draw.random() / 50
        request.count_forward(plan.num_query_rows, is_refresh=is_refresh)
        if canvas.is_block_done:
            request.commit_block()
            if canvas.block_start < canvas.region_stop:
                running.open_block()
    raise AssertionError(f"the request is not done after {_MAX_STEPS} steps ({play})")


def _start(policy: CachePolicy, play: Play) -> RunningRequest:
    template = None
    if play.has_gap:
        parts = [_MASK] * 7 + [_TOKEN] * 4 + [_MASK] * 9 + [_TOKEN] * 5
        template = np.array(parts, np.int32)
    request = Request(
        "played",
        np.full(play.prompt_len, _TOKEN, np.int32),
        SamplingParams(max_tokens=21, block_length=play.block_length),
        _MASK,
        template,
        mask_block=play.mask_block,
        logits_shift=play.logits_shift,
    )
    name = "t2m" if play.scores_unmasked else "low_confidence"
    remasking: RemaskingPolicy = REMASKING_POLICIES.create(name, {})
    assert remasking.scores_unmasked == play.scores_unmasked
    running = RunningRequest(request, remasking, policy, torch.device("cpu"))
    if policy.uses_pages:
        running.pages = empty_pages(request.canvas.length, request.canvas.num_live)
    return running


def empty_pages(length: int, num_live: int | None = None) -> PageTable:
    """Pages for ``num_live`` rows, or for all of ``length``, with nothing in them."""
    pool = PagePool(num_pages=-(-length // _PAGE_SIZE) + 1, page_size=_PAGE_SIZE)
    table = PageTable.try_create(pool, length if num_live is None else num_live)
    assert table is not None, "the pool holds all rows"
    return table


def _change(
    running: RunningRequest, plan: StepPlan, unmasked: list[int], revoked: list[int]
) -> None:
    """What the engine does after a forward: rows are written first, and then dirty."""
    canvas = running.request.canvas
    positions = [
        (np.array(offsets, np.int64) + canvas.block_start).astype(np.int32)
        for offsets in (unmasked, revoked)
    ]
    if running.pages is not None:
        running.pages.mark_written(plan.write)
        for changed in positions:
            running.pages.mark_dirty(changed)
    canvas.revoke(positions[1])
    canvas.unmask(positions[0], np.full(len(unmasked), _TOKEN, np.int32))
