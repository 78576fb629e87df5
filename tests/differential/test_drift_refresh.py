"""The drift signal against the pages themselves, and the refreshes it sets off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine import LLM, SamplingParams
from starr_engine.cache.rows import RowRanges
from starr_engine.engine.drifting import MeasuredRows
from starr_engine.engine.step_batch import StepBatch
from tests.helpers.engines import as_prompts, assert_all_pages_free, make_llm, random_prompts
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    """Remembers no canvas, so that a request computes the same rows each time it is asked."""
    return make_llm(folder, canvas_cache=0)


def drifting(budget: float, **changes: Any) -> SamplingParams:
    args = {"refresh": "drift", "drift_budget": budget} | changes.pop("cache_args", {})
    shape = {"max_tokens": 16, "block_length": 8, "cache": "dual", "ignore_eos": True}
    return SamplingParams(**(shape | {"remasking": "low_confidence", "cache_args": args} | changes))


def rows_of(ranges: RowRanges) -> list[int]:
    return [row for start, stop in ranges for row in range(start, stop)]


@pytest.mark.parametrize("cache", ["dual", "prefix", "delayed"])
def test_the_signal_is_how_far_the_pages_move_under_unchanged_tokens(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    executor = llm.engine.executor
    forward, values = executor.forward, executor._kv_pool.pages[-1, 1].flatten(0, 1)
    written: dict[int, int] = {}
    signals: list[float] = []

    def look(batch: StepBatch) -> Tensor:
        [entry] = batch.entries
        request, pages = entry.running.request, entry.running.pages
        assert pages is not None
        query, tokens = rows_of(entry.plan.query), request.canvas.token_ids
        same = [row for row in query if written.get(row) == tokens[row]]
        # The first step may have been taken over from an equal canvas.
        new = query if request.num_forwards else rows_of(entry.plan.read)
        written.update((row, int(tokens[row])) for row in new)
        slots = [pages.slot(row) for row in same]
        old, before = values[slots].clone().flatten(1).double(), request.drift_since_refresh
        logits = forward(batch)
        got = request.drift_since_refresh - before
        if request.num_forwards == 0:
            assert (batch.measured, got) == (None, 0.0)
        else:
            cosines = torch.cosine_similarity(old, values[slots].flatten(1).double(), dim=1)
            expected = float((1 - cosines).mean()) if same else 0.0
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)
            signals.append(got)
        return logits

    monkeypatch.setattr(executor, "forward", look)
    args = {"refresh_every": 99} if cache == "delayed" else {}
    llm.generate(as_prompts([[5, 9, 6]]), drifting(1e9, cache=cache, cache_args=args))
    assert len(signals) == 15
    assert sum(signal > 1e-4 for signal in signals) >= 10


def test_a_refresh_comes_exactly_when_the_signals_exceed_the_budget(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quarter(self: MeasuredRows, value: Tensor, v_cache: Tensor) -> Tensor:
        return torch.full((len(self.rows),), 0.75)

    monkeypatch.setattr(MeasuredRows, "similarity", quarter)
    for budget, period in [(0.2, 2), (0.25, 3), (0.6, 4), (1e9, 99)]:
        [output] = llm.generate(as_prompts([[5, 6]]), drifting(budget, trace=True))
        assert output.trace is not None
        kinds = [step.kind for step in output.trace.steps]
        assert kinds == ["block" if step % period else "refresh" for step in range(16)]
        assert output.num_refreshes == kinds.count("refresh")


def test_what_has_no_cosine_counts_as_far(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: MeasuredRows, value: Tensor, v_cache: Tensor) -> Tensor:
        return torch.full((len(self.rows),), torch.nan)

    monkeypatch.setattr(MeasuredRows, "similarity", nothing)
    [output] = llm.generate(as_prompts([[5, 6]]), drifting(0.9))
    assert output.num_refreshes == 8


def test_only_requests_that_refresh_by_drift_are_measured(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = llm.engine.executor.forward
    measured: list[set[str]] = []

    def look(batch: StepBatch) -> Tensor:
        found = () if batch.measured is None else batch.measured.entries
        measured.append({entry.running.request.request_id for entry in found})
        return forward(batch)

    monkeypatch.setattr(llm.engine.executor, "forward", look)
    plain = drifting(1.0).with_overrides({"cache_args": {}})
    llm.generate(as_prompts([[5], [6]]), plain)
    assert measured == [set()] * 16
    measured.clear()
    llm.generate(as_prompts([[5], [6], [7]]), [plain, drifting(1e9), plain])
    assert measured == [set()] + [{"1"}] * 15


def test_mixed_batches_in_random_order_give_what_each_request_gives_alone(folder: Path) -> None:
    llm = make_llm(folder, max_num_requests=5, canvas_cache=0)
    prompts = as_prompts(random_prompts(8, seed=4))
    caches = ["dual", "prefix", "vicinity", "delayed"]
    params = [
        drifting(
            [0.05, 0.2, 1.0][index % 3],
            cache=caches[index % 4],
            seed=index,
            remasking=["low_confidence", "threshold", "wino"][index % 3],
            cache_probe_rate=[0.0, 0.5][index % 2],
        )
        for index in range(7)
    ] + [drifting(1.0).with_overrides({"cache": "none", "cache_args": {}})]
    alone = [llm.generate([p], q)[0] for p, q in zip(prompts, params, strict=True)]
    assert len({output.num_refreshes for output in alone}) >= 3
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(8)
        outputs = llm.generate([prompts[i] for i in order], [params[i] for i in order])
        for output, index in zip(outputs, order, strict=True):
            expected = alone[index]
            assert (output.token_ids, output.nfe) == (expected.token_ids, expected.nfe)
            assert output.num_refreshes == expected.num_refreshes
    assert_all_pages_free(llm.engine)


def test_block_causal_models_can_refresh_by_drift(tmp_path: Path) -> None:
    config = sdar_config(max_position_embeddings=128)
    llm = make_llm(write_sdar_checkpoint(tmp_path, config, sdar_tensors(config, seed=1)))
    [few] = llm.generate(as_prompts([[5] * 9]), drifting(1e9))
    [many] = llm.generate(as_prompts([[5] * 9]), drifting(1e-6))
    assert few.num_refreshes < many.num_refreshes
    assert few.cache_label == "approximate: temporal reuse"
