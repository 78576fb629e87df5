"""Pages shared between requests: a hit, a miss, a lost page, and the tokens are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.engine.running import RunningRequest
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

BLOCK = PAGE = 8
PARAMS = SamplingParams(
    max_tokens=20, remasking="threshold", remasking_args={"threshold": 0.5}, ignore_eos=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"))


@pytest.fixture
def llm(folder: Path) -> LLM:
    return make_llm(folder, page_size=PAGE, num_threads=1)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(4, 101, length).tolist()


def ask(llm: LLM, ids: Sequence[int], **changes: Any) -> RequestOutput:
    [output] = llm.generate(as_prompts([ids]), PARAMS.with_overrides(changes))
    return output


def same(*outputs: RequestOutput) -> bool:
    return len({(output.token_ids, output.nfe) for output in outputs}) == 1


@pytest.mark.parametrize("length", [24, 25, 31, 32, 40])
def test_a_hit_gives_what_a_miss_gives(llm: LLM, folder: Path, length: int) -> None:
    cold = ask(llm, prompt(length))
    warm = ask(llm, prompt(length))
    off = ask(make_llm(folder, page_size=PAGE, prefix_caching=False, num_threads=1), prompt(length))
    assert same(cold, warm, off)
    # Whole pages in front of the block that the prompt ends in, or that follows it.
    assert (cold.num_cached_tokens, off.num_cached_tokens) == (0, 0)
    assert warm.num_cached_tokens == length // PAGE * PAGE
    assert warm.computed_rows == cold.computed_rows - warm.num_cached_tokens


def test_a_prefix_hit_may_end_inside_what_the_other_has_written(llm: LLM) -> None:
    shared = prompt(27)
    other = [*shared[:20], *prompt(20, seed=5)]
    cold = ask(llm, other)
    fresh = ask(llm, shared)
    assert fresh.num_cached_tokens == 16  # rows 16..23 differ from row 20 on
    assert same(fresh, ask(llm, shared))
    assert same(cold, ask(llm, other))


def test_the_next_turn_of_a_conversation_finds_the_last_one(llm: LLM) -> None:
    first = ask(llm, prompt(19))
    longer = [*prompt(19), *first.token_ids, *prompt(9, seed=3)]
    second = ask(llm, longer)
    # 19 + 20 tokens were written; the last block was not committed, so rows 0..31 are final.
    assert second.num_cached_tokens == 32
    assert same(second, ask(llm, longer, cache="none"))


def test_pages_are_evicted_when_they_are_needed_and_nothing_changes(folder: Path) -> None:
    llm = make_llm(folder, page_size=PAGE, num_pages=10, num_threads=1)
    asked = [prompt(33, seed=seed) for seed in range(4)]
    cold = [ask(llm, ids) for ids in asked]
    pool = llm.engine.page_pool
    assert pool.stats.evictions > 0
    for ids, before in zip(asked, cold, strict=True):
        assert same(before, ask(llm, ids))
    pool.check_invariants()
    assert pool.num_free == pool.num_pages - 1


def test_tenants_with_different_salts_share_no_page(llm: LLM) -> None:
    first = ask(llm, prompt(32), cache_salt="a")
    assert ask(llm, prompt(32), cache_salt="b").num_cached_tokens == 0
    assert ask(llm, prompt(32)).num_cached_tokens == 0
    again = ask(llm, prompt(32), cache_salt="a")
    assert again.num_cached_tokens == 32
    assert same(first, again)


def test_policies_that_write_everything_again_share_nothing(llm: LLM) -> None:
    ask(llm, prompt(32))
    for cache in ("none", "dual", "prefix"):
        assert ask(llm, prompt(32), cache=cache).num_cached_tokens == 0
    assert ask(llm, prompt(32)).num_cached_tokens == 32


def test_a_sealed_page_keeps_its_bytes(llm: LLM) -> None:
    engine = llm.engine
    ask(llm, prompt(32))
    pages = engine.executor._kv_pool.pages
    sealed = [page for page in range(1, engine.page_pool.num_pages)
              if engine.page_pool.is_indexed(page)]  # fmt: skip
    assert len(sealed) >= 4
    before = pages[:, :, sealed].clone()
    for seed in range(3):
        ask(llm, [*prompt(32), *prompt(11, seed=seed)])
    assert torch.equal(pages[:, :, sealed], before)


def test_what_free_pages_hold_is_never_read(llm: LLM) -> None:
    plain = ask(llm, prompt(21))
    pages = llm.engine.executor._kv_pool.pages
    pages.fill_(float("nan"))
    other = prompt(21, seed=8)
    assert ask(llm, other).error is None
    # What was sealed is gone with it: another tenant computes it anew.
    assert same(plain, ask(llm, prompt(21), cache_salt="new"))


def test_pages_are_published_only_behind_a_clean_commit(llm: LLM) -> None:
    engine = llm.engine
    engine.add_request(prompt(16), PARAMS)
    seen: set[int] = set()
    while engine.has_unfinished:
        [running] = list(engine.scheduler._running) or [None]  # type: ignore[list-item]
        engine.step()
        if running is None or running.pages is None:
            continue
        assert isinstance(running, RunningRequest)
        canvas = running.request.canvas
        rows = running.num_sealed * PAGE
        seen.add(rows)
        assert rows <= canvas.block_start
        assert canvas.mask_token_id not in canvas.token_ids[:rows]
        # The block before the active one, just finished, is not out yet.
        if running.request.steps_in_block == 0:
            assert rows <= canvas.block_start - BLOCK
    assert seen == {16, 24, 32}  # the last block, 32..35, is never committed


def test_an_aborted_request_publishes_nothing_more_and_returns_its_pages(llm: LLM) -> None:
    engine = llm.engine
    slow = PARAMS.with_overrides({"remasking": "low_confidence", "remasking_args": {}})
    name = engine.add_request(prompt(33), slow)
    for _ in range(3):
        engine.step()
    engine.abort(name)
    pool = engine.page_pool
    assert pool.num_free == pool.num_pages - 1
    pool.check_invariants()
    indexed = sum(pool.is_indexed(page) for page in range(1, pool.num_pages))
    assert indexed == 4  # of the prompt's 33 rows
    assert same(ask(llm, prompt(33)), ask(llm, prompt(33), cache="none"))


@pytest.mark.parametrize("num_pages", [8, 10, 13])
@pytest.mark.parametrize("cache", ["block_causal", "dual"])
def test_running_out_of_pages_preempts_and_changes_no_token(
    folder: Path, num_pages: int, cache: str
) -> None:
    """Three requests of up to 6 pages in 7, 9 or 12."""
    wide = make_llm(folder, page_size=PAGE, num_threads=1)
    tight = make_llm(folder, page_size=PAGE, num_pages=num_pages, num_threads=1)
    prompts = as_prompts([prompt(20, seed=seed) for seed in range(4)])
    asked = [PARAMS.with_overrides({"max_tokens": 28, "cache": cache, "seed": seed,
                                    "remasking": "low_confidence", "remasking_args": {}})
             for seed in range(4)]  # fmt: skip
    expected = [wide.generate([one], params)[0]
                for one, params in zip(prompts, asked, strict=True)]  # fmt: skip
    outputs = tight.generate(prompts, asked)
    assert [output.token_ids for output in outputs] == [output.token_ids for output in expected]
    pool = tight.engine.page_pool
    pool.check_invariants()
    assert pool.num_free == pool.num_pages - 1
    if num_pages == 10:
        assert sum(output.num_preemptions for output in outputs) > 0


def test_a_request_that_can_never_fit_is_refused_at_once(folder: Path) -> None:
    from starr_engine import RequestError

    llm = make_llm(folder, page_size=PAGE, num_pages=4, num_threads=1)
    with pytest.raises(RequestError, match="needs 6 pages of 8 rows, the pool has 3"):
        ask(llm, prompt(22))


def test_looking_again_while_waiting_counts_once(folder: Path) -> None:
    # Each takes 4 pages and then 6, all there are; the others look again at every step.
    llm = make_llm(folder, page_size=PAGE, num_pages=7, num_threads=1)
    llm.generate(as_prompts([prompt(27, seed=seed) for seed in range(3)]), PARAMS)
    stats = llm.stats()
    assert (stats.num_preemptions, stats.prefix_hits, stats.prefix_misses) == (0, 0, 3 * 3)
    assert llm.engine.page_pool.stats.misses == 9
