"""A request's steps without a model: the plans of a cache policy, and the rows that they compute.

Canvas, pages and view are the engine's own; what the model would choose is replaced by one token
per step. So the counts are exact for every size, where running the model would take hours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from starr_engine._core import PagePool, PageTable
from starr_engine.cache.base import CACHE_POLICIES, CachePolicy, StepKind, StepPlan
from starr_engine.cache.rows import RowRanges, num_rows
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.engine.running import RequestView, RunningRequest
from starr_engine.params import ArgValue, SamplingParams
from starr_engine.request import Request

PAGE_SIZE = 32
MASK = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is decoded, and by what kind of model."""

    prompt_len: int
    max_tokens: int
    block_length: int

    mask_block: bool = False
    """Whether the model is block-causal; its block length is ``block_length`` then."""

    num_layers: int = 1
    """Of the model; matters to policies that compute rows in some layers only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStep:
    """One denoising step: what the policy saw, and what it planned."""

    block: tuple[int, int]
    kind: StepKind
    num_live: int
    cached: RowRanges
    dirty: RowRanges
    masked: RowRanges
    query: RowRanges
    read: RowRanges

    partial: RowRanges
    """Rows of ``query`` that the layers behind the first compute in part."""

    computed_rows: int
    """As ``RequestOutput.computed_rows`` counts them."""


def simulate(policy: CachePolicy, shape: Shape, seed: int | None = None) -> Iterator[SimulatedStep]:
    """Run one request to its end, one token per step.

    Args:
        policy: Asked for the plan of each step. Its plans must not need a model's drift signal.
        shape: Of the request.
        seed: Of the order in which a block is filled; None fills it from the left. Hardly any
            policy's counts depend on it.

    Raises:
        ValueError: If the policy needs the drift signal.
    """
    if policy.needs_drift:
        raise ValueError("when rows drift is not known without a model")
    params = SamplingParams(max_tokens=shape.max_tokens, block_length=shape.block_length)
    request = Request(
        "simulated",
        np.full(shape.prompt_len, MASK + 1, np.int32),
        params,
        MASK,
        mask_block=shape.block_length if shape.mask_block else None,
    )
    remasking = REMASKING_POLICIES.create("low_confidence", {})
    running = RunningRequest(request, remasking, policy, torch.device("cpu"))
    canvas = request.canvas
    num_pages = -(-canvas.length // PAGE_SIZE) + 1
    pool = PagePool(num_pages=num_pages, page_size=PAGE_SIZE)
    pages = PageTable.try_create(pool, canvas.num_live) if policy.uses_pages else None
    running.pages = pages
    order = None if seed is None else random.Random(seed)
    while canvas.block_start < canvas.region_stop:
        if pages is not None:
            assert pages.try_grow(canvas.num_live)
        view, plan = RequestView(running), running.plan()
        step = SimulatedStep(
            block=(canvas.block_start, canvas.block_stop),
            kind=plan.kind,
            num_live=canvas.num_live,
            cached=view.cached,
            dirty=view.dirty,
            masked=view.masked,
            query=plan.query,
            read=plan.read,
            partial=plan.partial,
            computed_rows=computed_rows(plan, shape.num_layers),
        )
        masks = np.flatnonzero(canvas.active_block == MASK) + canvas.block_start
        chosen = masks[:1] if order is None else masks[[order.randrange(len(masks))]]
        if pages is not None:
            pages.mark_written(plan.write)
            pages.mark_dirty(chosen.astype(np.int32))
        canvas.unmask(chosen.astype(np.int32), np.array([MASK + 1], np.int32))
        request.count_forward(
            step.computed_rows, is_refresh=plan.kind in (StepKind.REFRESH, StepKind.PREFILL)
        )
        if canvas.is_block_done:
            request.commit_block()
        yield step


def computed_rows(plan: StepPlan, num_layers: int) -> int:
    """Rows of a plan; a row that only the first layer computes counts as its share of the layers.

    Rounded up, as the engine does.
    """
    in_part = num_rows(plan.partial) - plan.num_chosen
    return plan.num_query_rows - in_part * (num_layers - 1) // num_layers


def rows_per_step(name: str, args: dict[str, ArgValue], shape: Shape) -> list[int]:
    """Rows that each step of a whole request computes, by the policy's name and arguments."""
    policy = CACHE_POLICIES.create(name, args)
    return [step.computed_rows for step in simulate(policy, shape)]
