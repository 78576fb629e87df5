"""Equal canvases compute their first step once, and nobody can tell by the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
)

PARAMS = SamplingParams(
    max_tokens=24, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5},
    cache="dual", ignore_eos=True,
)  # fmt: skip
PROMPT = list(range(10, 27))
ROWS = len(PROMPT) + 24


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    made = make_llm(folder, page_size=8, num_threads=1)
    yield made
    assert_all_pages_free(made.engine)


def ask(llm: LLM, ids: Sequence[int] = PROMPT, **changes: Any) -> RequestOutput:
    [output] = llm.generate(as_prompts([ids]), PARAMS.with_overrides(changes))
    return output


def tokens(outputs: Sequence[RequestOutput]) -> list[tuple[tuple[int, ...], int]]:
    return [(output.token_ids, output.nfe) for output in outputs]


def test_a_canvas_is_kept_at_its_second_meeting_and_used_from_the_third_on(llm: LLM) -> None:
    first, second, third, fourth = (ask(llm) for _ in range(4))
    assert tokens([first]) == tokens([second]) == tokens([third]) == tokens([fourth])
    assert [output.num_cached_tokens for output in (first, second)] == [0, 0]
    assert third.num_cached_tokens == fourth.num_cached_tokens == ROWS - 8
    assert third.computed_rows == first.computed_rows - (ROWS - 8)
    assert (third.num_refreshes, third.cache_label) == (first.num_refreshes, first.cache_label)


@pytest.mark.parametrize("cache", ["prefix", "dual", "vicinity", "delayed"])
def test_samples_of_one_prompt_wait_for_the_first(llm: LLM, folder: Path, cache: str) -> None:
    sampled = {"n": 4, "temperature": 0.8, "cache": cache, "seed": 7}
    together = ask(llm, **sampled)
    alone = ask(make_llm(folder, page_size=8, canvas_cache=0, num_threads=1), **sampled)
    assert tokens(together.samples) == tokens(alone.samples)
    assert len({output.token_ids for output in together.samples}) > 1
    saved = [output.num_cached_tokens for output in together.samples]
    assert saved == [0, ROWS - 8, ROWS - 8, ROWS - 8]
    assert llm.engine.canvases.num_hits == 3


def test_what_differs_in_a_token_a_block_or_a_salt_is_another_canvas(llm: LLM) -> None:
    for _ in range(2):
        ask(llm)
    for changes in (
        {"ids": [*PROMPT[:-1], 99]},
        {"block_length": 12},
        {"max_tokens": 16},
        {"cache_salt": "other"},
        {"cache": "none"},
        {"cache_args": {"suffix_window": 4}},
    ):
        assert ask(llm, **changes).num_cached_tokens == 0
    # How it is decoded is no matter.
    for changes in ({"remasking": "starr", "remasking_args": {}}, {"cache": "prefix"}):
        assert ask(llm, **changes).num_cached_tokens == ROWS - 8


def test_kept_canvases_make_room_for_requests(folder: Path) -> None:
    # One request takes 6 pages of 8 rows; 8 pages hold no second one.
    llm = make_llm(folder, page_size=8, num_pages=9, num_threads=1)
    for _ in range(3):
        assert ask(llm).num_cached_tokens == 0
    wider = make_llm(folder, page_size=8, num_pages=13, num_threads=1)
    outputs = [ask(wider) for _ in range(3)]
    assert outputs[-1].num_cached_tokens == ROWS - 8
    wider.generate(as_prompts([[5], [6]]), PARAMS)  # 4 pages each
    assert len(wider.engine.canvases) == 0
    assert tokens([ask(wider)]) == tokens(outputs[:1])
    for made in (llm, wider):
        assert_all_pages_free(made.engine)


def test_the_oldest_canvas_goes_first_and_zero_keeps_none(folder: Path) -> None:
    llm = make_llm(folder, page_size=8, canvas_cache=2, num_threads=1)
    prompts = [[*PROMPT, last] for last in (5, 6, 7)]
    for ids in prompts:
        for _ in range(2):
            ask(llm, ids)
    assert [ask(llm, ids).num_cached_tokens > 0 for ids in prompts[::-1]] == [True, True, False]
    off = make_llm(folder, page_size=8, canvas_cache=0, num_threads=1)
    assert [ask(off).num_cached_tokens for _ in range(3)] == [0, 0, 0]


def test_an_abort_between_the_first_step_and_the_copy_changes_nothing(llm: LLM) -> None:
    expected = ask(llm)
    engine = llm.engine
    names = [engine.add_request(PROMPT, PARAMS) for _ in range(3)]
    engine.step()
    engine.abort(names[0])  # its pages are the source of a copy that is still to be made
    done = []
    while engine.has_unfinished:
        done += [output for output in engine.step() if isinstance(output, RequestOutput)]
    assert tokens(done) == tokens([expected, expected])


def test_a_budget_that_holds_one_refresh_holds_the_shortened_steps_too(folder: Path) -> None:
    llm = make_llm(folder, page_size=8, max_num_batched_tokens=ROWS, num_threads=1)
    output = ask(llm, n=4, temperature=0.8)
    plain = make_llm(folder, page_size=8, canvas_cache=0, num_threads=1)
    assert tokens(output.samples) == tokens(ask(plain, n=4, temperature=0.8).samples)
    assert [sample.num_cached_tokens for sample in output.samples] == [0, *[ROWS - 8] * 3]


def test_a_copy_whose_forward_failed_is_not_used(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(llm)
    engine = llm.engine
    engine.reset_caches()
    names = [engine.add_request(PROMPT, PARAMS) for _ in range(2)]
    engine.step()  # the first computes the canvas, and a copy of its pages is asked for
    assert len(engine.canvases) == 1
    with monkeypatch.context() as patch:
        patch.setattr(engine.executor, "forward", lambda batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    for name in names:
        engine.abort(name)
    engine.executor._kv_pool.pages.fill_(7.0)  # what was never copied is anything
    assert tokens([ask(llm) for _ in range(2)]) == tokens([expected, expected])
