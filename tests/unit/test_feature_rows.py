"""Rows computed in part: what a plan may ask for, and where they lie in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine._core import PagePool, PageTable, PlanError
from starr_engine.cache.base import CacheDefaults, CacheView, StepKind, StepPlan, approximate
from starr_engine.cache.feature_pool import FeaturePool
from starr_engine.cache.pool import KVPool
from starr_engine.cache.rows import RowRanges
from starr_engine.decoding.facts import KnownFacts
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.decoding.policies.wino import WinoPolicy
from starr_engine.engine.batching import Batcher
from starr_engine.engine.canvas_cache import CanvasCache
from starr_engine.engine.feature_rows import PartialRows, check_partial
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.scheduler import Schedule, ScheduledRequest
from starr_engine.engine.step_batch import StepBatch
from starr_engine.errors import CapacityError
from starr_engine.params import SamplingParams
from starr_engine.request import Request

PAGE = 4
MASK = 3
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping(CacheDefaults):
    """Keeps features or not; plans are made by hand."""

    keep: bool = True

    @property
    def keeps_features(self) -> bool:
        return self.keep

    def label(self, mask_block: int | None) -> str:
        return approximate()

    def plan(self, view: CacheView) -> StepPlan:
        raise AssertionError


def running(
    pool: PagePool,
    *,
    keep: bool = True,
    checked: bool = False,
    cached: RowRanges = ((0, 12),),
) -> RunningRequest:
    """Twelve rows: a prompt of four, and two blocks of four, the first with a token."""
    request = Request("r", np.full(4, 5, np.int32), SamplingParams(max_tokens=8, block_length=4), 3)
    request.canvas.unmask(np.array([4], np.int32), np.array([7], np.int32))
    made = RunningRequest(
        request, WinoPolicy() if checked else ThresholdPolicy(), Keeping(keep=keep), CPU
    )
    made.pages = PageTable.try_create(pool, 12, [])
    assert made.pages is not None
    made.pages.mark_written(cached)
    return made


def scheduled(
    made: RunningRequest,
    *,
    query: RowRanges = ((4, 12),),
    partial: RowRanges = (),
    num_chosen: int = 0,
    shadow: RowRanges = (),
    **changes: Any,
) -> ScheduledRequest:
    sets: dict[str, Any] = {"query": query, "write": query, "read": ((0, 12),)}
    plan = StepPlan(kind=StepKind.BLOCK, partial=partial, num_chosen=num_chosen, **(sets | changes))
    return ScheduledRequest(running=made, plan=plan, shadow=shadow)


@pytest.fixture
def pool() -> PagePool:
    return PagePool(20, PAGE)


@pytest.mark.parametrize(
    ("partial", "num_chosen", "problem"),
    [
        ((), 1, "num_chosen without partial rows"),
        (((4, 12),), 0, r"num_chosen must be in \[1, 8\]"),
        (((4, 12),), 9, r"num_chosen must be in \[1, 8\]"),
        (((3, 12),), 2, "must be a subset of write"),
        (((4, 8), (6, 12)), 2, "sorted, disjoint ranges"),
        (((8, 12), (4, 8)), 2, "sorted, disjoint ranges"),
    ],
)
def test_a_plan_with_wrong_partial_rows_is_refused(
    pool: PagePool, partial: RowRanges, num_chosen: int, problem: str
) -> None:
    entry = scheduled(running(pool), partial=partial, num_chosen=num_chosen)
    with pytest.raises(PlanError, match=problem):
        check_partial(entry, None)


def test_partial_rows_need_features_and_pages_and_see_everything(pool: PagePool) -> None:
    wanted: dict[str, Any] = {"partial": ((4, 12),), "num_chosen": 2}
    check_partial(scheduled(running(pool), **wanted), None)
    for changes, mask_block in (({}, 4), ({"isolated": 4}, None)):
        with pytest.raises(PlanError, match="only where each sees all that is read"):
            check_partial(scheduled(running(pool), **wanted, **changes), mask_block)
    with pytest.raises(PlanError, match="says keeps_features"):
        check_partial(scheduled(running(pool, keep=False), **wanted), None)
    with pytest.raises(PlanError, match="rows cached earlier"):
        check_partial(scheduled(running(pool, cached=((0, 11),)), **wanted), None)
    without = running(pool)
    without.release_pages()
    with pytest.raises(PlanError, match="rows cached earlier"):
        check_partial(scheduled(without, **wanted), None)


def build(*entries: ScheduledRequest) -> StepBatch:
    canvases = CanvasCache(PagePool(2, PAGE), max_entries=0)
    batcher = Batcher(PAGE, MASK, CPU, None, canvases, max_num_batched_tokens=100)
    return batcher.lay_out(batcher.check(Schedule(entries=entries)), KnownFacts([]))


def test_a_refused_plan_is_left_out_and_the_others_are_laid_out(pool: PagePool) -> None:
    wrong = scheduled(running(pool), partial=((4, 12),), num_chosen=9)
    right = scheduled(running(pool), partial=((4, 12),), num_chosen=2)
    batch = build(wrong, right)
    assert batch.entries == (right,)
    assert "Keeping failed: plan refused: num_chosen" in batch.refused[0].reason
    assert batch.features is not None
    assert batch.features.partial is not None
    assert batch.features.partial.bounds == (0, 8)


def test_a_step_in_which_nobody_keeps_features_has_none(pool: PagePool) -> None:
    assert build(scheduled(running(pool, keep=False))).features is None
    # Nothing is kept of rows that are not written: probes and the like.
    rows = ((0, 12),)
    assert build(scheduled(running(pool), query=rows, write=(), read=rows)).features is None


def laid_out(pool: PagePool) -> tuple[StepBatch, PartialRows]:
    """Flat rows: 8 of one without, then 12 of which 8 in part and 4 shadow rows, then 8."""
    batch = build(
        scheduled(running(pool, keep=False)),
        scheduled(
            running(pool, checked=True),
            query=((0, 12),),
            partial=((5, 8), (9, 12)),
            num_chosen=2,
            shadow=((4, 8),),
        ),
        scheduled(running(pool), partial=((4, 12),), num_chosen=3),
    )
    assert batch.features is not None
    assert batch.features.partial is not None
    return batch, batch.features.partial


def test_rows_in_part_are_laid_out_request_by_request_with_shadow_rows_last(
    pool: PagePool,
) -> None:
    batch, partial = laid_out(pool)
    assert batch.features is not None
    second = [8 + row for row in (5, 6, 7, 9, 10, 11)]
    third = list(range(24, 32))
    assert partial.rows.tolist() == second + third
    assert partial.slots.tolist() == batch.attention.slot_mapping[second + third].tolist()
    assert (partial.bounds, partial.counts) == ((0, 6, 14), (2, 3))
    assert partial.attention.query_lens == (8, 6 + 2 + 4, 3)
    assert partial.attention.cu_query.tolist() == [0, 8, 20, 23]
    assert partial.attention.shadow_lens == (0, 4, 0)
    assert partial.attention.read_lens == batch.attention.read_lens == (12, 12, 12)
    assert partial.attention.visible.tolist() == [12] * 23
    assert partial.chosen_at.tolist() == [8 + 6, 8 + 7, 20, 21, 22]
    kept = batch.features.slots.tolist()
    # The first keeps nothing, and shadow rows nowhere do.
    assert kept[:8] == [-1] * 8
    assert kept[20:24] == [-1] * 4
    assert kept[8:20] + kept[24:] == batch.attention.slot_mapping[[*range(8, 20), *third]].tolist()


def test_the_rows_whose_values_turned_most_are_chosen_in_each_request(pool: PagePool) -> None:
    batch, partial = laid_out(pool)
    cache = torch.zeros(20, PAGE, 1, 2)
    value = torch.tensor([1.0, 0.0]).repeat(len(batch.input_ids), 1).unsqueeze(1)
    cache.flatten(0, 1)[partial.slots] = value[partial.rows]
    for row, turn in ((13, 0.1), (17, 0.3), (18, 0.2), (25, 3.0), (31, 0.01)):
        value[row, 0] = torch.tensor([np.cos(turn), np.sin(turn)])
    value[0] = -value[0]  # not computed in part, so it is not asked
    computed = partial.choose(value, cache).tolist()
    others = [8, 9, 10, 11, 12, 16]
    assert computed[:8] == list(range(8))
    assert computed[8:14] == others
    assert computed[14:16] == [17, 18]
    assert computed[16:20] == [20, 21, 22, 23]
    # Of equal rows the first.
    assert computed[20:] == [24, 25, 31]


@pytest.mark.parametrize(
    ("num_layers", "rows"), [(1, 16), (2, 13), (3, 12), (4, 12), (8, 11), (100, 11)]
)
def test_rows_in_part_count_as_their_share_of_the_layers_rounded_up(
    pool: PagePool, num_layers: int, rows: int
) -> None:
    entry = scheduled(
        running(pool), query=((0, 12),), partial=((4, 12),), num_chosen=2, shadow=((4, 8),)
    )
    # 8 computed everywhere, 2 of them chosen in part; 6 in the first layer alone.
    assert entry.num_query_rows == 16
    assert entry.computed_rows(num_layers) == rows
    assert rows == -(-(10 * num_layers + 6) // num_layers)


def kv_pool(num_layers: int = 3) -> KVPool:
    return KVPool(
        num_layers=num_layers, num_pages=5, page_size=PAGE, num_kv_heads=1, head_dim=8,
        dtype=torch.bfloat16, device=CPU,
    )  # fmt: skip


def test_the_first_layer_keeps_no_features() -> None:
    pool = FeaturePool(kv_pool(), 16)
    assert pool.pages.shape == (2, 2, 5, PAGE, 16)
    assert pool.num_bytes == 2 * 2 * 5 * PAGE * 16 * 2
    pool.layer(1)[0].fill_(1)
    pool.layer(2)[1].fill_(2)
    assert [float(rows.float().mean()) for layer in (1, 2) for rows in pool.layer(layer)] == [
        1, 0, 0, 2,
    ]  # fmt: skip
    assert FeaturePool(kv_pool(1), 16).num_bytes == 0


def test_features_that_do_not_fit_are_refused_with_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise RuntimeError("out of memory")

    keys = kv_pool()
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(CapacityError, match="takes 2560 bytes for 5 pages of 4 rows, beside 1920"):
        FeaturePool(keys, 16)
