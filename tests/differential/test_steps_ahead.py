"""A step that is launched before the one in front of it is known gives what it gives after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from starr_engine import BlockOutput, RequestOutput, SamplingParams
from starr_engine.cache.rows import covers
from starr_engine.config import EngineConfig
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.engine import ahead as ahead_of
from starr_engine.engine.engine import Engine
from starr_engine.engine.graphs.recorder import RerunRecorder
from starr_engine.engine.options import EngineOptions
from starr_engine.engine.step_batch import StepBatch
from tests.helpers.engines import assert_all_pages_free, random_prompts, sharp_checkpoint
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

ARGS: dict[str, dict[str, Any]] = {
    "starr": {"revoke_below": 0.3},
    "low_confidence": {"tokens_per_step": 3},
    "token_edit": {"edit_threshold": 0.2},
}
POLICIES = [name for name in REMASKING_POLICIES.names() if name != "wino"]
CACHES: list[dict[str, Any]] = [
    {"cache": "none"},
    {"cache": "prefix"},
    {"cache": "dual", "cache_args": {"refresh_every": 3}},
    {"cache": "vicinity", "cache_args": {"look_back": 3, "look_ahead": 5, "warmup": 3}},
    {"cache": "delayed", "cache_args": {"warmup": 4}},
]
WAITS: list[dict[str, Any]] = [
    {"cache": "dual", "cache_args": {"refresh": "never"}},
    {"cache": "dual", "cache_args": {"suffix_window": 8}},
    {"cache": "dual", "cache_args": {"isolate_prompt": True}},
    {"cache": "dllm"},
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
    {"repetition_penalty": 1.3},
    {"trace": True},
]
RULES: dict[str, dict[str, Any]] = {
    "forbidden": {"suppress_eos": True},
    "allowed": {"allowed_token_ids": tuple(range(4, 40))},
    "bias": {"logit_bias": {5: 3.0, 9: -4.0}},
    "min_tokens": {"min_tokens": 7, "ignore_eos": False},
}


ONE_BY_ONE: dict[str, Any] = {
    "remasking": "low_confidence", "block_length": 8, "ignore_eos": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"), block_size=8)


@pytest.fixture(autouse=True)
def eager_to_go_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here many requests end their blocks at once, and it is not about speed."""
    monkeypatch.setattr(ahead_of, "MOST_LEFT_OUT", 0.5)


def make_engine(folder: Path, *, ahead: bool, **settings: Any) -> Engine:
    recorder = settings.pop("recorder", None)
    config = EngineConfig(
        model=str(folder), device="cpu", dtype="float32",
        launch_ahead="on" if ahead else "off",
        **({"canvas_cache": 0, "max_num_requests": 6} | settings),
    )  # fmt: skip
    return Engine(config, options=EngineOptions(recorder=recorder))


def run(
    engine: Engine, kinds: Sequence[dict[str, Any]], *, with_rows: bool = True
) -> dict[str, tuple[Any, ...]]:
    """Requests of other lengths that come a step apart; of one that is aborted nothing is said."""
    found: dict[str, tuple[Any, ...]] = {}
    prompts = random_prompts(len(kinds), seed=2)
    waiting = list(enumerate(zip(prompts, kinds, strict=True)))
    step = 0
    while waiting or engine.has_unfinished:
        if waiting:
            n, (prompt, kind) = waiting.pop(0)
            fields = {
                "max_tokens": 8 + 5 * (n % 4), "block_length": 8, "ignore_eos": n % 3 > 0,
                "temperature": (0.0, 0.6)[n % 2], "seed": n, "eos_last": n % 4 == 3,
            }  # fmt: skip
            engine.add_request(prompt, SamplingParams(**(fields | kind)), str(n))
        if step == 9:
            engine.abort("1")
        for output in engine.step():
            if isinstance(output, RequestOutput) and output.request_id != "1":
                assert output.error is None
                rows = (output.computed_rows, output.num_refreshes) if with_rows else ()
                confidence = pytest.approx(output.mean_log_confidence, abs=1e-4)
                found[output.request_id] = (
                    output.token_ids, output.nfe, rows, output.num_edited, confidence,
                )  # fmt: skip
        step += 1
    engine.launch()
    assert_all_pages_free(engine)
    return found


def check(
    folder: Path, kinds: Sequence[dict[str, Any]], *, with_rows: bool = True, **settings: Any
) -> Engine:
    engine = make_engine(folder, ahead=True, **settings)
    settings.pop("recorder", None)
    known = make_engine(folder, ahead=False, **settings)
    assert run(engine, kinds, with_rows=with_rows) == run(known, kinds, with_rows=with_rows)
    return engine


@pytest.mark.parametrize("name", POLICIES)
def test_policies_decide_the_same(bidirectional: Path, name: str) -> None:
    kinds = [{"remasking": name, "remasking_args": ARGS.get(name, {})}] * 6
    assert check(bidirectional, kinds).stats().num_steps_ahead > 3


@pytest.mark.parametrize("kind", CACHES, ids=lambda kind: kind["cache"])
def test_caches_hold_the_same(bidirectional: Path, kind: dict[str, Any]) -> None:
    policies: list[dict[str, Any]] = [
        {"remasking": "starr", "remasking_args": {"revoke_below": 0.3}},
        {"remasking": "threshold"},
        {"remasking": "low_confidence"},
        {"remasking": "token_edit"},
        {"remasking": "klass", "early_exit": "sched"},
        {"remasking": "token_edit", "remasking_args": {"threshold": 0.5}, "logprobs": 2},
    ]
    engine = check(bidirectional, [kind | policy for policy in policies] * 2)
    assert engine.stats().num_steps_ahead > 10
    mixed = [cache | policy for cache, policy in zip(CACHES * 2, policies * 2, strict=False)]
    assert check(bidirectional, mixed).stats().num_steps_ahead > 10


@pytest.mark.parametrize("block_length", [8, 4])
def test_block_causal_pages_hold_the_same(block_causal: Path, block_length: int) -> None:
    names = ["starr", "threshold", "low_confidence", "token_edit"] * 3
    kinds = [{"remasking": name, "block_length": block_length} for name in names]
    # A request that gives its pages up at another step computes other rows again.
    engine = check(block_causal, kinds, num_pages=9, page_size=8, with_rows=False)
    assert engine.stats().num_steps_ahead > 10
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_do_not_depend_on_tokens_wait_for_none(bidirectional: Path, rule: str) -> None:
    policies = ["starr", "token_edit", "klass", "saber", "credit", "threshold"]
    kinds = [RULES[rule] | {"remasking": name} for name in policies]
    assert check(bidirectional, kinds).stats().num_steps_ahead > 3


@pytest.mark.parametrize("kind", WAITS, ids=str)
def test_what_the_host_must_see_waits(bidirectional: Path, kind: dict[str, Any]) -> None:
    engine = check(bidirectional, [kind] * 4)
    assert engine.stats().num_steps_ahead == 0
    assert engine.stats().num_lost_rows == 0
    others: list[dict[str, Any]] = [{}, {"cache": "dual"}, {}, {}]
    assert check(bidirectional, [kind, *others, kind]).stats().num_steps_ahead > 0


def test_recorded_steps_take_what_is_carried(bidirectional: Path) -> None:
    kinds = [{"cache": "dual", "remasking": "threshold"}] * 8
    engine = check(bidirectional, kinds, recorder=RerunRecorder(), attention_backend="sdpa")
    graphs = engine.executor.graphs
    assert graphs is not None
    assert graphs.replays.total() > 5
    assert engine.stats().num_steps_ahead > 5


def test_a_step_is_launched_before_the_last_one_is_waited_for(bidirectional: Path) -> None:
    engine = make_engine(bidirectional, ahead=True)
    log: list[str] = []
    build, wait = engine.batcher.check, engine.decoder.wait

    def built(schedule: Any) -> Any:
        log.append("build")
        return build(schedule)

    def waited(queued: Any) -> Any:
        log.append("wait")
        return wait(queued)

    params = SamplingParams(
        max_tokens=16, block_length=8, ignore_eos=True, remasking="low_confidence",
        remasking_args={"tokens_per_step": 2},
    )  # fmt: skip
    engine.add_request([5, 6], params)
    with (
        mock.patch.object(engine.batcher, "check", built),
        mock.patch.object(engine.decoder, "wait", waited),
    ):
        while engine.has_unfinished:
            engine.step()
    block = ["build", "build", "wait", "build", "wait", "build", "wait", "wait"]
    assert log == block * 2
    # Its pace says when a block is done: nothing is computed in vain.
    assert engine.stats().num_lost_rows == 0
    assert engine.stats().num_steps_ahead == 6


def test_a_step_that_many_would_sit_out_waits(
    bidirectional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    kinds = [
        {"remasking": "low_confidence", "max_tokens": 8 * n, "ignore_eos": True} for n in (1, 2)
    ]
    engine = make_engine(bidirectional, ahead=True)
    for n, kind in enumerate(kinds * 2):
        engine.add_request([5, 6, 7 + n], SamplingParams(**(ONE_BY_ONE | kind)))
        engine.step()
    before = engine.stats()
    while engine.has_unfinished:
        engine.step()
    assert engine.stats().num_lost_rows == before.num_lost_rows == 0
    assert 0 < engine.stats().num_steps_ahead < engine.stats().num_steps - 4


def test_rows_of_blocks_that_were_done_are_counted_and_kept_nowhere(bidirectional: Path) -> None:
    engine, plain = (make_engine(bidirectional, ahead=ahead) for ahead in (True, False))
    params = SamplingParams(
        max_tokens=16, block_length=8, ignore_eos=True, remasking="threshold",
        remasking_args={"threshold": 0.0},
    )  # fmt: skip
    for each in (engine, plain):
        each.add_request([5, 6], params)
        [first, *_] = [output for output in each.step() if isinstance(output, BlockOutput)]
        assert first.num_forwards == 1
    assert engine.stats().num_lost_rows == 8
    assert engine.stats().num_steps_ahead == 1
    # The lost step has run by now, and has left keys and values as they were.
    pages, expected = (each.executor._kv_pool.pages for each in (engine, plain))
    assert expected.any()
    assert torch.equal(pages, expected)
    while engine.has_unfinished:
        engine.step()
    # By now it is known that a step does for a block.
    assert engine.stats().num_lost_rows == 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubtful(StatelessPolicy):
    """Puts a token that nobody proposed: its probability has to be looked up."""

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        first = view.masked & (view.masked.cumsum(1) == 1)
        tokens = torch.where(view.step[:, None] % 2 == 1, 7, view.candidates)
        return Decision(unmask=first, tokens=tokens), state


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(StatelessPolicy):
    """Unmasks what is no mask at its third step."""

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        first = view.masked & (view.masked.cumsum(1) == 1)
        return Decision(unmask=first | (view.step[:, None] == 2)), state


@pytest.mark.parametrize("cache", ["none", "dual", "vicinity"])
def test_a_step_that_rested_on_a_decision_made_again_is_taken_again(
    bidirectional: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        REMASKING_POLICIES, "create",
        lambda name, args: {"random": Refused, "margin": Doubtful}[name](),
    )  # fmt: skip

    checked = 0

    def outcome(*, ahead: bool) -> dict[str, Any]:
        engine = make_engine(bidirectional, ahead=ahead)
        forget = engine.progress.forget

        def forgotten(batch: StepBatch) -> None:
            """What it has written into blocks is not taken for what stands there."""
            nonlocal checked
            forget(batch)
            for entry in batch.entries:
                if entry.is_wanted and entry.carried is not None and entry.running.pages:
                    canvas = entry.running.request.canvas
                    block = ((canvas.block_start, canvas.block_stop),)
                    assert covers(tuple(entry.running.pages.dirty_ranges()), block)
                    checked += 1

        monkeypatch.setattr(engine.progress, "forget", forgotten)
        for n, name in enumerate(["margin", "random", "margin"]):
            params = SamplingParams(
                max_tokens=16, block_length=8, ignore_eos=True, remasking=name, cache=cache
            )
            engine.add_request(random_prompts(3, seed=1)[n], params, str(n))
        found: dict[str, Any] = {}
        while engine.has_unfinished:
            for output in engine.step():
                if isinstance(output, RequestOutput):
                    found[output.request_id] = output.token_ids, output.nfe, output.error
        assert_all_pages_free(engine)
        assert ahead == (engine.stats().num_lost_rows > 0)
        return found

    assert outcome(ahead=True) == outcome(ahead=False)
    assert (checked > 0) == (cache != "none")
