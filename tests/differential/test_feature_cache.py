"""Layers that compute rows in part: beside other requests, with shadow rows, and against none.

That the tokens are those of the published procedure is in ``test_cache_references``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine import LLM, CapacityError, RequestError, RequestOutput, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES, CacheView, StepPlan
from starr_engine.cache.policies.dllm import DLLMCache
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_all_pages_free,
    assert_same,
    make_llm,
    random_prompts,
)
from tests.helpers.llada_reference import Array
from tests.helpers.reference_caches import DEFAULTS
from tests.helpers.reference_dllm import FeatureForward, Shadows
from tests.helpers.reference_wino import reference_wino
from tests.helpers.sdar_checkpoints import write_sdar_checkpoint

OFTEN: dict[str, Any] = {"prompt_interval": 5, "response_interval": 3}
NARROW = 2e-6
"""Below this gap between chosen and not, float32 may rightly choose other rows."""

WINO: dict[str, Any] = {"tau1": 0.3, "tau2": 0.6, "cap_min": 2}
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
    ("wino", WINO),
    ("klass", {"epsilon": 1.0}),
]
CACHES: list[tuple[str, dict[str, Any]]] = [
    ("dllm", OFTEN),
    ("none", {}),
    ("dllm", {}),
    ("dual", {}),
    ("dllm", {"prompt_interval": 2, "response_interval": 4, "ratio": 0.5}),
    ("delayed", {}),
    ("dllm", {"prompt_interval": 1, "response_interval": 1}),
    ("vicinity", {"look_back": 2, "look_ahead": 3, "refresh": "never"}),
    ("prefix", {"suffix_window": 6}),
    ("dual", {"isolate_prompt": True}),
    ("dual", {"refresh": "drift", "drift_budget": 0.01}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, so that one that computes in part feeds another; confidences span [0, 1]."""
    config = llada_config(n_layers=3, max_sequence_length=256)
    tensors = llada_tensors(config, seed=2)
    tensors["model.transformer.ln_f.weight"] = tensors["model.transformer.ln_f.weight"] * 5
    return write_checkpoint(tmp_path_factory.mktemp("deep"), config, tensors)


@pytest.fixture(scope="module", params=["sdpa", "reference"])
def any_llm(request: pytest.FixtureRequest, folder: Path) -> LLM:
    return make_llm(folder, attention_backend=request.param, page_size=8, canvas_cache=0)


def params_of(cache: str = "dllm", args: dict[str, Any] = OFTEN, **changes: Any) -> SamplingParams:
    fields: dict[str, Any] = {"max_tokens": 21, "block_length": 8, "ignore_eos": True}
    return SamplingParams(cache=cache, cache_args=args, **(fields | changes))


def tokens(outputs: Sequence[RequestOutput]) -> list[tuple[Any, ...]]:
    for output in outputs:
        assert output.error is None
    return [(output.token_ids, output.nfe, output.num_unmasked) for output in outputs]


def test_mixed_batches_in_random_order_give_what_each_request_gives_alone(folder: Path) -> None:
    nothing_kept = {"canvas_cache": 0, "prefix_caching": False}
    llm = make_llm(folder, page_size=4, max_num_requests=8, **nothing_kept)
    count = 2 * len(CACHES)
    prompts = random_prompts(count, seed=1)
    params = [
        params_of(
            *CACHES[n % len(CACHES)],
            remasking=POLICIES[n % len(POLICIES)][0],
            remasking_args=POLICIES[n % len(POLICIES)][1],
            block_length=(4, 8, 21)[n % 3],
            temperature=(0.0, 0.7)[n % 2],
            seed=n,
        )
        for n in range(count)
    ]
    alone = [
        llm.generate(as_prompts([prompt]), wanted)[0]
        for prompt, wanted in zip(prompts, params, strict=True)
    ]
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(count)
        outputs = llm.generate(as_prompts([prompts[i] for i in order]), [params[i] for i in order])
        assert tokens(outputs) == tokens([alone[i] for i in order])
        assert [o.computed_rows for o in outputs] == [alone[i].computed_rows for i in order]
    assert_all_pages_free(llm.engine)


@pytest.mark.parametrize(("name", "args"), POLICIES)
def test_with_both_intervals_at_one_it_decodes_as_no_cache(
    folder: Path, name: str, args: dict[str, Any]
) -> None:
    llm = make_llm(folder)
    prompts = as_prompts(random_prompts(4, seed=2))
    chosen: dict[str, Any] = {"remasking": name, "remasking_args": args}
    always = {"prompt_interval": 1, "response_interval": 1}
    exact = llm.generate(prompts, params_of("none", {}, **chosen))
    got = llm.generate(prompts, params_of("dllm", always, **chosen))
    assert tokens(got) == tokens(exact)
    assert [o.computed_rows for o in got] == [o.computed_rows for o in exact]
    assert {o.cache_label for o in got} == {"exact"}
    assert llm.engine.executor.feature_bytes == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllChosen(DLLMCache):
    """Chooses every row, through what chooses some."""

    def plan(self, view: CacheView) -> StepPlan:
        plan = DLLMCache.plan(self, view)
        count = sum(stop - start for start, stop in plan.partial)
        return StepPlan(
            kind=plan.kind, query=plan.query, write=plan.write, read=plan.read,
            partial=plan.partial, num_chosen=count,
        )  # fmt: skip


@pytest.fixture
def all_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CACHE_POLICIES._targets, "all_chosen", AllChosen)


@pytest.mark.usefixtures("all_chosen")
@pytest.mark.parametrize(("name", "args"), [POLICIES[1], POLICIES[4]])
def test_choosing_every_row_is_refreshing_the_response_at_every_step(
    any_llm: LLM, name: str, args: dict[str, Any]
) -> None:
    prompts = as_prompts(random_prompts(4, seed=3))
    chosen: dict[str, Any] = {"remasking": name, "remasking_args": args}
    refreshed = any_llm.generate(
        prompts, params_of("dllm", {"prompt_interval": 5, "response_interval": 1}, **chosen)
    )
    for cache, cache_args in (("dllm", OFTEN | {"ratio": 1}), ("all_chosen", OFTEN)):
        got = any_llm.generate(prompts, params_of(cache, cache_args, **chosen))
        assert tokens(got) == tokens(refreshed)
        assert [o.computed_rows for o in got] == [o.computed_rows for o in refreshed]


def wino_forward(forward: FeatureForward, num_rows: int) -> Any:
    """A dense forward as the dense WINO loop calls it: canvas and shadow block in one."""

    def logits_of(ids: Sequence[int], positions: Sequence[int], visible: Array) -> Array:
        shadows = Shadows(
            ids[num_rows:], np.array(positions[num_rows:]), visible[num_rows:].astype(np.bool_)
        )
        return forward(ids[:num_rows], shadows)

    return logits_of


def test_wino_with_rows_in_part_equals_the_dense_loop(any_llm: LLM, folder: Path) -> None:
    reference = Reference(folder)
    mask, eos = reference.config["mask_token_id"], [reference.config["eos_token_id"]]
    compared = 0
    for at, prompt in enumerate(random_prompts(6, seed=5)):
        args = (OFTEN, {"prompt_interval": 2, "response_interval": 4, "ratio": 0.5}, {})[at % 3]
        params = params_of("dllm", args, remasking="wino", remasking_args=WINO)
        forward = FeatureForward(reference.model, DEFAULTS["dllm"] | args, len(prompt))
        logits_of = wino_forward(forward, len(prompt) + params.max_tokens)
        expected = reference_wino(logits_of, prompt, params, mask, eos)
        [output] = any_llm.generate(as_prompts([prompt]), params)
        if forward.narrowest > NARROW:
            assert_same(output, expected)
            compared += 1
    assert compared >= 4


def test_rows_that_were_never_written_are_never_read(folder: Path) -> None:
    llm = make_llm(folder, page_size=4, max_num_requests=4, canvas_cache=0)
    prompts = as_prompts(random_prompts(8, seed=6))
    params = [
        params_of(*CACHES[n], remasking=POLICIES[n % 6][0], remasking_args=POLICIES[n % 6][1])
        for n in range(8)
    ]
    expected = llm.generate(prompts, params)
    executor = llm.engine.executor
    forward = executor.forward
    free_before: list[int] = []

    def spoil(batch: Any) -> Tensor:
        """NaN in every page that no request holds, and in every row that none has computed."""
        rows = torch.ones(llm.engine.page_pool.num_pages * 4, dtype=torch.bool)
        for entry in batch.entries:
            pages = entry.running.pages
            for start, stop in () if pages is None else pages.cached_ranges():
                own = torch.arange(start, stop)
                rows[torch.tensor(pages.pages)[own // 4] * 4 + own % 4] = False
        # Everybody takes part in every step here, so these rows are all that is held.
        executor._kv_pool.pages.flatten(2, 3)[:, :, rows] = torch.nan
        assert executor._feature_pool is not None
        executor._feature_pool.pages.flatten(2, 3)[:, :, rows] = torch.nan
        free_before.append(int(rows.sum()))
        logits = forward(batch)
        assert not logits.isnan().any()
        return logits

    executor.forward = spoil  # type: ignore[method-assign]
    assert tokens(llm.generate(prompts, params)) == tokens(expected)
    assert min(free_before) < max(free_before)
    assert_all_pages_free(llm.engine)


def test_an_aborted_request_gives_its_pages_back_and_the_others_do_not_notice(
    folder: Path,
) -> None:
    llm = make_llm(folder, page_size=4)
    engine = llm.engine
    [alone] = llm.generate(as_prompts([[5, 6, 7]]), params_of())
    kept = engine.add_request([5, 6, 7], params_of())
    others = [engine.add_request([8, 9, n], params_of(seed=n)) for n in range(10, 13)]
    finished: list[RequestOutput] = []
    for at in range(100):
        if at % 4 == 1 and others:  # between refreshes of the response
            output = engine.abort(others.pop())
            assert output is not None
            assert output.error is None
        finished += [event for event in engine.step() if isinstance(event, RequestOutput)]
        if not engine.has_unfinished:
            break
    assert [output.request_id for output in finished] == [kept]
    assert tokens(finished) == tokens([alone])
    assert_all_pages_free(llm.engine)


def test_equal_canvases_of_other_policies_take_nothing_from_it_and_give_it_nothing(
    folder: Path,
) -> None:
    prompts = as_prompts([[5, 6, 7]] * 9)
    always = {"prompt_interval": 4, "response_interval": 1}
    params = [
        params_of(
            *(("dllm", OFTEN), ("dual", {}), ("dllm", always))[n % 3], temperature=0.7, seed=n
        )
        for n in range(9)
    ]
    expected = make_llm(folder, canvas_cache=0).generate(prompts, params)
    for order in (list(range(9)), list(reversed(range(9)))):
        got = make_llm(folder).generate([prompts[i] for i in order], [params[i] for i in order])
        assert tokens(got) == tokens([expected[i] for i in order])
        # Only the policies that keep no features share their first step.
        spared = [output.num_cached_tokens > 0 for output in got]
        assert sum(spared) == 5
        assert not any(flag for flag, i in zip(spared, order, strict=True) if i % 3 == 0)


def test_probes_say_how_far_it_is_off(folder: Path) -> None:
    llm = make_llm(folder)
    prompts = as_prompts(random_prompts(3, seed=9))
    always = {"prompt_interval": 1, "response_interval": 1}
    for args, is_off in ((OFTEN, True), (always, False)):
        plain = llm.generate(prompts, params_of("dllm", args))
        probed = llm.generate(prompts, params_of("dllm", args, cache_probe_rate=1.0))
        assert tokens(probed) == tokens(plain)
        for output in probed:
            assert output.drift is not None
            assert output.drift.probe_forwards == output.nfe
            assert (output.drift.mean_confidence_error > 1e-4) is is_off


def test_a_trace_shows_the_rows_that_are_counted(folder: Path) -> None:
    [output] = make_llm(folder).generate(as_prompts([[5, 6, 7]]), params_of(trace=True))
    assert output.trace is not None
    assert sum(step.num_rows for step in output.trace.steps) == output.computed_rows


def test_a_template_begins_its_response_at_the_first_gap(any_llm: LLM, folder: Path) -> None:
    reference = Reference(folder)
    parts: list[int | list[int]] = [[5, 6], 4, [9, 9, 9], 6, [11]]
    template: list[int | None] = []
    for part in parts:
        template += [None] * part if isinstance(part, int) else part
    params = params_of(remasking="threshold", remasking_args={"threshold": 0.5})
    for prompt in ([], [7, 8, 9]):
        expected = reference.generate_cached(prompt, params, template)
        request = {"prompt_token_ids": prompt, "template": parts}
        [output] = any_llm.generate([request], params)
        assert expected.narrowest > NARROW
        assert_same(output, expected)
        assert output.computed_rows == expected.computed_rows


def test_pages_of_features_are_made_when_the_first_request_needs_them(folder: Path) -> None:
    llm = make_llm(folder, page_size=8, num_pages=10)
    llm.generate(as_prompts([[5]]), params_of("dual", {}))
    assert llm.engine.executor.feature_bytes == 0
    llm.engine.add_request([5], params_of())
    spec = llm.engine.spec
    assert llm.engine.executor.feature_bytes == 2 * 2 * 10 * 8 * spec.hidden_size * 4


def test_a_request_whose_features_do_not_fit_is_refused_and_others_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_llm(folder)
    zeros = torch.zeros

    def full(shape: tuple[int, ...], **options: Any) -> Tensor:
        if len(shape) == 5:
            raise RuntimeError("out of memory")
        return zeros(shape, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "zeros", full)
        with pytest.raises(CapacityError, match="to keep what layers add to rows takes"):
            llm.engine.add_request([5], params_of())
        assert not llm.engine.has_unfinished
    assert llm.generate(as_prompts([[5]]), params_of("dual", {}))[0].error is None
    assert llm.generate(as_prompts([[5]]), params_of())[0].error is None


def test_a_block_causal_model_refuses_it(tmp_path: Path) -> None:
    llm = make_llm(write_sdar_checkpoint(tmp_path))
    with pytest.raises(RequestError, match=r"cache='dllm': .* this one is block-causal"):
        llm.generate(as_prompts([[5]]), SamplingParams(cache="dllm", max_tokens=4))
