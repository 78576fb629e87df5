"""Admission, mixing, aborting, stopping and the errors of single requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine import LLM, BlockOutput, ConfigError, RequestError, RequestOutput, SamplingParams
from tests.helpers.checkpoints import MASK_TOKEN_ID
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)

POLICIES = ("low_confidence", "threshold", "starr", "wino")
CACHES = ("none", "dual")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def shared(folder: Path) -> LLM:
    return make_llm(folder, max_num_requests=8)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """Every test must leave the engine idle, with all pages free."""
    yield shared
    engine = shared.engine
    assert not engine.has_unfinished
    engine.page_pool.check_invariants()
    assert_all_pages_free(engine)


def small(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 16, "block_length": 8, "ignore_eos": True} | changes))


def test_each_cache_works_with_each_policy_mixed_in_one_batch(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(16, seed=1))
    params = [
        small(remasking=policy, cache=cache, max_tokens=8 * blocks)
        for blocks in (1, 3)
        for policy in POLICIES
        for cache in CACHES
    ]
    mixed = llm.generate(prompts, params)
    for prompt, wanted, output in zip(prompts, params, mixed, strict=True):
        [alone] = llm.generate([prompt], wanted)
        assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)
        label = "exact" if wanted.cache == "none" else "approximate: temporal reuse"
        assert output.cache_label == label
        assert output.finish_reason == "length"


def test_one_token_per_step_takes_max_tokens_forwards_with_and_without_cache(llm: LLM) -> None:
    for cache in CACHES:
        outputs = llm.generate(
            as_prompts(random_prompts(4)), small(remasking="low_confidence", cache=cache)
        )
        assert [out.nfe for out in outputs] == [16] * 4
        assert [out.tpf for out in outputs] == [1.0] * 4


def test_dual_cache_computes_the_canvas_once_per_block_and_then_the_block(llm: LLM) -> None:
    params = small(remasking="low_confidence", cache="dual")
    [output] = llm.generate(as_prompts([[5] * 10]), params)
    # Two blocks: a refresh of 10 + 16 rows, then 7 steps of 8 rows.
    assert output.computed_rows == 2 * (26 + 7 * 8)
    refreshed = small(remasking="low_confidence", cache="dual", cache_args={"refresh_every": 3})
    [output] = llm.generate(as_prompts([[5] * 10]), refreshed)
    # Steps 0, 3 and 6 of each block refresh.
    assert output.computed_rows == 2 * (3 * 26 + 5 * 8)


def test_dual_cache_refreshed_every_step_equals_no_cache(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(6, seed=2))
    for policy in POLICIES:
        always = small(remasking=policy, cache="dual", cache_args={"refresh_every": 1})
        exact = llm.generate(prompts, small(remasking=policy, cache="none"))
        for a, b in zip(llm.generate(prompts, always), exact, strict=True):
            assert (a.token_ids, a.nfe) == (b.token_ids, b.nfe)
            assert a.cache_label == b.cache_label == "exact"


def test_more_requests_than_places_and_pages_wait_and_finish(folder: Path) -> None:
    # Seven pages hold at most two canvases of 36 rows (3 pages of 16) at a time.
    tight = make_llm(folder, max_num_requests=3, num_pages=8, page_size=16)
    prompts = as_prompts([[9 + n] * 20 for n in range(9)])
    outputs = tight.generate(prompts, small(cache="dual"))
    roomy = make_llm(folder).generate(prompts, small(cache="dual"))
    assert [out.token_ids for out in outputs] == [out.token_ids for out in roomy]
    assert tight.engine.page_pool.num_free == 7


def test_a_row_budget_delays_requests_and_changes_no_token(folder: Path) -> None:
    prompts = as_prompts(random_prompts(6, seed=3))
    outputs = make_llm(folder, max_num_batched_tokens=40).generate(prompts, small(cache="dual"))
    free = make_llm(folder).generate(prompts, small(cache="dual"))
    assert [out.token_ids for out in outputs] == [out.token_ids for out in free]
    assert [out.nfe for out in outputs] == [out.nfe for out in free]


def test_the_same_seed_gives_the_same_tokens_whatever_shares_the_batch(llm: LLM) -> None:
    prompt = as_prompts(random_prompts(1, seed=7))
    params = small(temperature=20.0, seed=5, remasking="low_confidence")
    [alone] = llm.generate(prompt, params)
    crowd = llm.generate(prompt + as_prompts(random_prompts(7, seed=8)), params)
    assert crowd[0].token_ids == alone.token_ids
    [other] = llm.generate(prompt, small(temperature=20.0, seed=6, remasking="low_confidence"))
    assert other.token_ids != alone.token_ids


def test_stop_tokens_end_after_their_block_and_are_not_shown(llm: LLM) -> None:
    prompt = as_prompts(random_prompts(1, seed=4))
    [full] = llm.generate(prompt, small(cache="none"))
    at = 3  # in the first of two blocks
    stop = full.token_ids[at]
    first = full.token_ids.index(stop)
    [cut] = llm.generate(prompt, small(cache="none", stop_token_ids=(stop,)))
    assert cut.token_ids == full.token_ids[:first]
    assert cut.finish_reason == "stop"
    assert cut.num_unmasked == 8


def test_aborting_in_the_middle_returns_every_page_and_what_was_committed(llm: LLM) -> None:
    engine = llm.engine
    for _, prompt in enumerate(random_prompts(3)):
        engine.add_request(prompt, small(remasking="low_confidence", cache="dual"))
    blocks: list[BlockOutput] = []
    for _ in range(11):  # one block of eight, and three steps of the second
        blocks += [out for out in engine.step() if isinstance(out, BlockOutput)]
    assert len(blocks) == 3
    for block in blocks:
        output = engine.abort(block.request_id)
        assert output is not None
        assert (output.finish_reason, output.nfe) == ("abort", 11)
        assert output.token_ids == block.token_ids
    assert engine.abort("unknown") is None


def test_aborting_a_waiting_request_leaves_the_others_alone(llm: LLM) -> None:
    engine = llm.engine
    ids = [engine.add_request([5, 6], small()) for _ in range(10)]
    assert engine.num_waiting == 10
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (8, 2)
    aborted = engine.abort(ids[-1])
    assert aborted is not None
    assert aborted.token_ids == ()
    assert aborted.nfe == 0
    finished = []
    while engine.has_unfinished:
        finished += [out.request_id for out in engine.step() if isinstance(out, RequestOutput)]
    assert sorted(finished) == sorted(ids[:-1])
    assert engine.step() == []


def test_streamed_blocks_join_to_the_output(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(3, seed=6))
    params = small(max_tokens=24)
    blocks: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    final: dict[str, RequestOutput] = {}
    for event in llm.stream(prompts, params):
        if isinstance(event, BlockOutput):
            assert event.request_id not in final
            blocks[event.request_id] += event.token_ids
        else:
            final[event.request_id] = event
    for request_id, output in final.items():
        assert tuple(blocks[request_id]) == output.token_ids
    assert [final[str(n)].token_ids for n in range(3)] == [
        out.token_ids for out in llm.generate(prompts, params)
    ]


def test_closing_a_stream_that_was_never_read_aborts_it_too(llm: LLM) -> None:
    stream = llm.stream(as_prompts(random_prompts(4)), small())
    assert llm.engine.has_unfinished
    stream.close()
    assert not llm.engine.has_unfinished
    assert list(stream) == []
    llm.stream(as_prompts(random_prompts(4)), small())  # forgotten at once
    assert not llm.engine.has_unfinished


def test_a_stream_ends_when_its_requests_are_aborted_elsewhere(llm: LLM) -> None:
    stream = llm.stream(as_prompts(random_prompts(2)), small(max_tokens=24))
    first = next(stream)
    assert llm.engine.abort("0" if first.request_id == "1" else "1") is not None
    assert {event.request_id for event in stream} <= {first.request_id}


def test_an_interrupt_during_a_step_leaves_the_engine_idle(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(batch: object) -> None:
        raise KeyboardInterrupt

    stream = llm.stream(as_prompts(random_prompts(2)), small(max_tokens=24))
    next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.executor, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    assert not llm.engine.has_unfinished


def test_a_stream_closes_at_the_end_of_a_with_statement(llm: LLM) -> None:
    with llm.stream(as_prompts(random_prompts(2)), small()) as stream:
        next(stream)
        assert llm.engine.has_unfinished
    assert not llm.engine.has_unfinished


def test_closing_a_stream_aborts_what_is_unfinished(llm: LLM) -> None:
    stream = llm.stream(as_prompts(random_prompts(4)), small())
    next(stream)
    with pytest.raises(RequestError, match="another call of this LLM is not finished"):
        llm.generate(as_prompts([[5]]), small())
    stream.close()


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([5, MASK_TOKEN_ID], {}, r"holds the mask token \(id 3\) at position 1"),
        ([5, 101], {}, "prompt token 101 at position 1 is outside the vocabulary of 101 ids"),
        ([5, -1], {}, "prompt token -1 at position 1"),
        ([5, 5.7], {}, "prompt_token_ids must hold integers, got 5.7 at position 1"),
        ([5, 6.0], {}, "prompt_token_ids must hold integers, got 6.0 at position 1"),
        ([True], {}, "prompt_token_ids must hold integers, got True at position 0"),
        ([None], {}, "prompt_token_ids must hold integers, got None at position 0"),
        ([[5, 6]], {}, r"prompt_token_ids must hold integers, got \[5, 6\] at position 0"),
        ("ab", {}, "has no tokenizer.json"),
        ({"prompt_token_ids": "ab"}, {}, "must hold integers, got 'a' at position 0"),
        ({"prompt_token_ids": None}, {}, "a prompt is a text"),
        ({"prompt_token_ids": 5}, {}, "a prompt is a text"),
        (7, {}, "a prompt is a text.* got 7"),
        ([5] * 241, {}, "prompt of 241 tokens and max_tokens=16 make 257, the model allows 256"),
        ([5], {"remasking": "treshold"}, "did you mean 'threshold'"),
        ([5], {"remasking": "threshold", "remasking_args": {"tau": 1}}, "has no argument 'tau'"),
        ([5], {"cache": "duel"}, "did you mean 'dual'"),
        ([5], {"cache": "none", "cache_args": {"x": 1}}, "known: suffix_window, suffix_tail"),
        (
            [5],
            {"cache": "dual", "cache_args": {"refresh_every": 0}},
            "refresh_every must be an integer >=",
        ),
        ([5], {"stop": ("x",)}, "stop strings need a tokenizer"),
    ],
)
def test_a_request_that_cannot_run_is_refused_before_any_starts(
    llm: LLM, prompt: Any, changes: dict[str, Any], message: str
) -> None:
    bad = {"prompt_token_ids": prompt} if isinstance(prompt, list) else prompt
    with pytest.raises(RequestError, match=f"^prompt 1: .*{message}"):
        llm.generate([{"prompt_token_ids": [5]}, bad], [small(), small(**changes)])
    assert not llm.engine.has_unfinished


def test_prompt_ids_of_numpy_and_torch_are_taken(llm: LLM) -> None:
    kinds = [[5, 6], (5, 6), np.array([5, 6]), torch.tensor([5, 6]), [np.int32(5), np.uint8(6)]]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in kinds], small())
    assert {out.prompt_token_ids for out in outputs} == {(5, 6)}
    assert len({out.token_ids for out in outputs}) == 1


@pytest.mark.parametrize("params", [{"max_tokens": 8}, [{"max_tokens": 8}], ["x"], 3])
def test_parameters_of_another_kind_are_refused(llm: LLM, params: Any) -> None:
    with pytest.raises(RequestError, match="params must be SamplingParams"):
        llm.generate(as_prompts([[5]]), params)
    assert not llm.engine.has_unfinished


def test_as_many_parameters_as_prompts_are_asked_for(llm: LLM) -> None:
    with pytest.raises(RequestError, match="2 prompts but 1 params; give one for each"):
        llm.generate(as_prompts([[5], [6]]), [small()])


def test_no_prompts_give_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == []
    assert list(llm.stream([])) == []


def test_an_id_made_by_the_engine_avoids_those_in_use(llm: LLM) -> None:
    engine = llm.engine
    taken = {f"request-{n}": n for n in range(40)}
    for request_id in taken:
        engine.add_request([5], small(), request_id=request_id)
    made = engine.add_request([5], small())
    assert made not in taken
    with pytest.raises(RequestError, match="request id 'request-0' is in use; choose another"):
        engine.add_request([5], small(), request_id="request-0")
    with pytest.raises(RequestError, match="request_id must be a text, got 5"):
        engine.add_request([5], small(), request_id=5)  # type: ignore[arg-type]
    for request_id in [*taken, made]:
        assert engine.abort(request_id) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": -8}, "block_length must be a positive integer"),
        ({"max_tokens": 0}, "max_tokens must be a positive integer"),
        ({"temperature": -1}, "temperature must be a finite number >= 0"),
        ({"seed": -1}, "seed must be an integer"),
        ({"stop": ("",)}, "stop must hold non-empty strings"),
        ({"cache_args": 3}, "cache_args must map names to values"),
    ],
)
def test_sampling_parameters_out_of_range_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        small(**changes)


def test_a_request_larger_than_the_pool_is_refused_but_runs_without_cache(folder: Path) -> None:
    tiny = make_llm(folder, num_pages=2, page_size=16)
    prompt = as_prompts([[5] * 20])
    with pytest.raises(RequestError, match=r"needs 3 pages of 16 rows, the pool has 1"):
        tiny.generate(prompt, small(cache="dual"))
    assert tiny.generate(prompt, small(cache="none"))[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"max_model_len": 9999}, "beyond the model's own limit of 256"),
        ({"attention_backend": "sdpaa"}, "did you mean 'sdpa'"),
    ],
)
def test_engine_options_that_cannot_be_used_are_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_llm(folder, **options)
