"""What must hold for every cache: limits in which nothing is reused, and what a step may touch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.engine.running import RunningRequest
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint
from tests.helpers.sdar_reference import SDARReference

PAGE = 8
PARAMS = SamplingParams(
    max_tokens=24, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5},
    ignore_eos=True,
)  # fmt: skip
PROMPTS = random_prompts(4, seed=12)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder: Path = sharp_checkpoint(tmp_path_factory.mktemp("llada"))
    return make_llm(folder, page_size=PAGE, canvas_cache=0, num_threads=1)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    assert_all_pages_free(shared.engine)


def tokens(outputs: Sequence[RequestOutput]) -> list[tuple[tuple[int, ...], int]]:
    return [(output.token_ids, output.nfe) for output in outputs]


def ask(llm: LLM, cache: str, args: dict[str, Any], **changes: Any) -> list[RequestOutput]:
    params = PARAMS.with_overrides({"cache": cache, "cache_args": args} | changes)
    return llm.generate(as_prompts(PROMPTS), params)


@pytest.mark.parametrize(
    ("cache", "args"),
    [
        ("none", {"suffix_window": 24}),
        ("dual", {"refresh_every": 1}),
        ("prefix", {"refresh_every": 1}),
        ("vicinity", {"refresh_every": 1, "look_back": 2}),
        ("vicinity", {"look_back": 999, "look_ahead": 999}),
        ("vicinity", {"look_back": 999, "look_ahead": 999, "refresh": "never"}),
        ("delayed", {"refresh_every": 1}),
        ("dllm", {"prompt_interval": 1, "response_interval": 1}),
        ("dllm", {"prompt_interval": 1, "ratio": 1.0}),
        ("dual", {"refresh_every": 1, "suffix_window": 999}),
        ("dual", {"refresh": "drift", "drift_budget": 1e-9, "refresh_every": 1}),
    ],
)
def test_where_nothing_is_reused_the_tokens_are_those_without_cache(
    llm: LLM, cache: str, args: dict[str, Any]
) -> None:
    for changes in ({}, {"remasking": "low_confidence", "remasking_args": {}, "seed": 3}):
        assert tokens(ask(llm, cache, args, **changes)) == tokens(ask(llm, "none", {}, **changes))


def test_a_prefix_cache_without_a_prefix_reuses_nothing(llm: LLM) -> None:
    outputs = []
    for cache in ("none", "prefix"):
        name = llm.engine.add_request(
            [], PARAMS.with_overrides({"cache": cache}), template=[*[None] * 8, 5, 6, 7]
        )
        while llm.engine.has_unfinished:
            outputs += [o for o in llm.engine.step() if isinstance(o, RequestOutput)]
        assert outputs[-1].request_id == name
    assert tokens(outputs[:1]) == tokens(outputs[1:])


@pytest.mark.parametrize("cache", ["prefix", "dual", "vicinity", "delayed", "dllm"])
@pytest.mark.parametrize("remasking", REMASKING_POLICIES.names())
def test_every_cache_works_with_every_remasking_policy_alone_and_mixed(
    llm: LLM, cache: str, remasking: str
) -> None:
    mine = PARAMS.with_overrides({"cache": cache, "remasking": remasking, "remasking_args": {},
                                  "max_tokens": 16})  # fmt: skip
    other = PARAMS.with_overrides({"cache": "dual", "max_tokens": 16})
    prompts = as_prompts(PROMPTS[:2])
    [alone] = llm.generate(prompts[:1], mine)
    mixed, _ = llm.generate(prompts, [mine, other])
    assert alone.error is None
    assert tokens([alone]) == tokens([mixed])
    assert len(alone.token_ids) == 16


class Watched:
    """A running request and its keys and values after each step."""

    def __init__(self, llm: LLM, prompt: Sequence[int], params: SamplingParams) -> None:
        self.engine = llm.engine
        self.pages: Tensor = llm.engine.executor._kv_pool.pages
        self.name = llm.engine.add_request(prompt, params)

    def __iter__(self) -> Iterator[tuple[RunningRequest, Tensor]]:
        while self.engine.has_unfinished:
            self.engine.step()
            [running] = list(self.engine.scheduler._running) or [None]  # type: ignore[list-item]
            if running is not None and running.pages is not None:
                yield running, self.rows(running)

    def rows(self, running: RunningRequest) -> Tensor:
        """[layer, 2, row, head, size] as they are now."""
        assert running.pages is not None
        slots = [running.pages.slot(row) for row in range(running.pages.num_rows)]
        return self.pages.flatten(2, 3)[:, :, slots].clone()


@pytest.mark.parametrize("cache", ["prefix", "dual", "vicinity", "delayed"])
def test_layer_0_holds_what_a_full_forward_gives_but_for_dirty_rows(llm: LLM, cache: str) -> None:
    # Keys and values of the first layer depend on a row's own token and position alone.
    prompt = PROMPTS[0]
    params = PARAMS.with_overrides({"cache": cache, "remasking": "low_confidence",
                                    "remasking_args": {}})  # fmt: skip
    model = llm.engine.executor._model
    layer = next(iter(model.layers))
    saw_dirty = False
    for running, rows in Watched(llm, prompt, params):
        assert running.pages is not None
        ids = torch.from_numpy(running.request.canvas.token_ids.astype(np.int64))
        embedded = model.embed(ids)
        rotation = model.rotation(torch.arange(len(ids)), embedded.dtype)
        normed = layer.normed(embedded)
        _, key = layer.query_key(normed, rotation)
        dirty = running.pages.dirty_rows()
        saw_dirty |= bool(dirty)
        for found, full in ((rows[0, 0], key), (rows[0, 1], layer.value(normed))):
            wrong = ((found - full).abs().amax((1, 2)) > 1e-4).nonzero().flatten().tolist()
            assert wrong == dirty
    assert saw_dirty


@pytest.mark.parametrize("cache", ["prefix", "dual", "vicinity", "delayed"])
def test_a_step_changes_the_rows_it_writes_and_no_others(llm: LLM, cache: str) -> None:
    engine = llm.engine
    watched = Watched(llm, PROMPTS[1], PARAMS.with_overrides({"cache": cache}))
    engine.step()
    while engine.has_unfinished:
        [running] = engine.scheduler._running
        before, plan, pages = watched.pages.clone(), running.plan(), running.pages
        assert pages is not None
        written = {pages.slot(row) for start, stop in plan.write for row in range(start, stop)}
        engine.step()
        changed = (watched.pages != before).flatten(4).any(-1).any(0).any(0).flatten()
        assert set(changed.nonzero().flatten().tolist()) <= written


@pytest.mark.parametrize("cache", ["prefix", "dual", "vicinity", "delayed", "block_causal"])
def test_losing_all_pages_at_every_block_changes_no_token(
    llm: LLM, tmp_path: Path, cache: str
) -> None:
    if cache == "block_causal":
        llm = make_llm(write_sdar_checkpoint(tmp_path / "sdar"), page_size=PAGE, num_threads=1)
    engine, prompt = llm.engine, PROMPTS[2]
    params = PARAMS.with_overrides({"cache": cache, "remasking": "low_confidence",
                                    "remasking_args": {}})  # fmt: skip
    [expected] = llm.generate(as_prompts([prompt]), params)
    engine.reset_caches()
    engine.add_request(prompt, params)
    done: list[RequestOutput] = []
    while engine.has_unfinished:
        done += [output for output in engine.step() if isinstance(output, RequestOutput)]
        running = engine.scheduler._running
        if running and running[0].request.steps_in_block == 0:
            engine.scheduler._turn_out(running[0])
            engine.reset_caches()
            engine.executor._kv_pool.pages.fill_(float("nan"))
    engine.executor._kv_pool.pages.zero_()
    assert tokens(done) == tokens([expected])
    assert done[0].num_preemptions >= 2


@pytest.fixture(scope="module")
def sdar() -> SDARReference:
    config = sdar_config()
    weights = {name: tensor.double().numpy() for name, tensor in sdar_tensors(config).items()}
    return SDARReference(config, weights)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), length=st.integers(9, 40))
def test_what_is_called_shareable_depends_on_nothing_behind_it(
    sdar: SDARReference, data: st.DataObject, length: int
) -> None:
    """One token changes: rows of the blocks before it stay what they are, all others move."""
    block = sdar.config["block_size"]
    ids = np.random.default_rng(length).integers(4, 101, length)
    at = data.draw(st.integers(0, length - 1))
    changed = ids.copy()
    changed[at] = (ids[at] + 1 - 4) % 97 + 4
    moved = np.abs(sdar.logits(ids.tolist()) - sdar.logits(changed.tolist())).max(1) > 0
    shareable = at // block * block  # rows of whole blocks in front of the change
    assert not moved[:shareable].any()
    assert moved[shareable:].all()
