"""What an engine says it has done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from starr_engine import LLM, CacheDrift, SamplingParams
from tests.helpers.engines import as_prompts, make_llm, random_prompts, sharp_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint


@pytest.fixture
def llm(tmp_path: Path) -> LLM:
    return make_llm(sharp_checkpoint(tmp_path), max_num_requests=2)


def small(**changes: Any) -> SamplingParams:
    shape = {"max_tokens": 8, "block_length": 4, "remasking": "low_confidence", "cache": "dual"}
    return SamplingParams(**(shape | {"ignore_eos": True} | changes))


def test_a_new_engine_has_done_nothing(llm: LLM) -> None:
    stats = llm.stats()
    assert stats == llm.engine.stats()
    assert (stats.num_steps, stats.num_finished, stats.request_forwards) == (0, 0, 0)
    assert stats.num_pages == stats.num_free_pages == llm.engine.page_pool.num_pages - 1
    assert stats.drift == CacheDrift()
    assert stats.prefix_hit_rate is None
    llm.engine.step()
    assert llm.stats() == stats


def test_totals_are_those_of_the_outputs(llm: LLM) -> None:
    outputs = llm.generate(
        as_prompts(random_prompts(3)),
        [small(), small(cache_probe_rate=1.0), small(cache="none", cache_probe_rate=1.0)],
    )
    stats = llm.stats()
    assert (stats.num_finished, stats.num_failed, stats.num_aborted) == (3, 0, 0)
    assert (stats.num_running, stats.num_waiting, stats.num_preemptions) == (0, 0, 0)
    # Two at a time, eight steps each.
    assert (stats.num_steps, stats.request_forwards, stats.num_unmasked) == (16, 24, 24)
    assert stats.num_refreshes == sum(output.num_refreshes for output in outputs) == 4
    assert stats.computed_rows == sum(output.computed_rows for output in outputs)
    drifts = [output.drift for output in outputs if output.drift is not None]
    assert stats.drift.probe_forwards == 16
    assert stats.drift.max_kl == max(drift.max_kl or 0.0 for drift in drifts)
    assert stats.drift.mean_kl == pytest.approx(sum(d.mean_kl or 0.0 for d in drifts) / 2)


def test_unfinished_requests_count_and_count_once(llm: LLM) -> None:
    for prompt in ([5], [6], [7]):
        llm.engine.add_request(prompt, small(cache_probe_rate=1.0))
    llm.engine.step()
    llm.engine.step()
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_finished) == (2, 1, 0)
    assert (stats.num_steps, stats.request_forwards, stats.num_unmasked) == (2, 4, 4)
    assert stats.num_free_pages < stats.num_pages
    assert stats.drift.probe_forwards == 4
    llm.engine.abort("request-0")
    assert llm.engine.abort("request-0") is None
    stats = llm.stats()
    assert (stats.num_aborted, stats.num_running, stats.request_forwards) == (1, 1, 4)
    while llm.engine.has_unfinished:
        llm.engine.step()
    stats = llm.stats()
    assert (stats.num_finished, stats.num_aborted) == (2, 1)
    assert (stats.request_forwards, stats.drift.probe_forwards) == (18, 18)


def test_failed_requests_count(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = llm.engine.executor.forward
    monkeypatch.setattr(llm.engine.executor, "forward", lambda batch: forward(batch) * float("nan"))
    llm.generate(as_prompts([[5]]), small())
    stats = llm.stats()
    assert (stats.num_failed, stats.num_finished, stats.num_steps) == (1, 0, 1)


def test_equal_canvases_count(llm: LLM) -> None:
    llm.generate(as_prompts([[5, 6]] * 2), small())
    stats = llm.stats()
    assert (stats.canvas_hits, stats.canvas_misses) == (1, 1)


def test_shared_prefixes_and_preemptions_count(tmp_path: Path) -> None:
    config = sdar_config(max_position_embeddings=128)
    folder = write_sdar_checkpoint(tmp_path, config, sdar_tensors(config, seed=1))
    llm = make_llm(folder, page_size=8, num_pages=8)
    params = small(cache="block_causal", block_length=8, max_tokens=24)
    llm.generate(as_prompts([[5] * 17]), params)
    before = llm.stats()
    assert (before.prefix_hits, before.prefix_misses) == (0, 2)
    assert before.num_indexed_pages == 5
    assert before.num_free_pages == before.num_pages
    llm.generate(as_prompts([[5] * 17]), params)
    stats = llm.stats()
    assert (stats.prefix_hits, stats.prefix_misses, stats.prefix_hit_rate) == (2, 2, 0.5)
    llm.generate(as_prompts([[6] * 17, [7] * 17]), params)
    stats = llm.stats()
    assert stats.num_preemptions >= 1
    assert stats.num_evicted_pages >= 1
    assert stats.num_finished == 4
