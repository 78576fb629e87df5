"""Traces: the engine's own decisions, number for number, and nothing when nobody asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine import LLM, ConfigError, SamplingParams, Trace
from starr_engine.cache.base import StepKind
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.decoding.decoder import decide_rows
from starr_engine.decoding.rows import DecodingRow, RowDecision
from starr_engine.decoding.scores import score_rows
from starr_engine.offline.job import BatchJob, check_job
from starr_engine.offline.rows import RawRow, parse_row
from starr_engine.trace import Decider, Outcome, PositionTrace
from tests.helpers.engines import as_prompts, make_llm, random_prompts, sharp_checkpoint
from tests.helpers.spies import Spy
from tests.helpers.word_models import write_word_model

MASK = 3
PARAMS = SamplingParams(max_tokens=16, block_length=8, ignore_eos=True, trace=True)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return make_llm(sharp_checkpoint(tmp_path_factory.mktemp("sharp")))


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, list[int]]]:
    return as_prompts(random_prompts(4, seed=3))


def traced(llm: LLM, prompt: Any, params: SamplingParams = PARAMS, **changes: Any) -> Trace:
    [output] = llm.generate([prompt], replace(params, **changes))
    assert output.trace is not None
    return output.trace


POLICIES = [
    ("starr", {}),
    ("starr", {"revoke_below": 0.6}),
    ("threshold", {"threshold": 0.7}),
    ("threshold", {"threshold": 2.0}),
    ("low_confidence", {"tokens_per_step": 3}),
]


@pytest.mark.parametrize(("name", "args"), POLICIES)
def test_a_trace_says_what_the_policy_saw_and_said(
    llm: LLM, prompts: list, monkeypatch: pytest.MonkeyPatch, name: str, args: dict
) -> None:
    seen: list[tuple[BlockView, Decision]] = []
    create = REMASKING_POLICIES.create
    monkeypatch.setattr(
        REMASKING_POLICIES, "create", lambda *given: Spy(inner=create(*given), seen=seen)
    )
    trace = traced(llm, prompts[0], remasking=name, remasking_args=args)
    assert len(seen) == trace.nfe
    for step, (view, decision) in zip(trace.steps, seen, strict=True):
        positions = step.positions
        masked = view.masked[0].numpy()
        scored = masked | np.full(8, "revoke_below" in args)
        assert positions.candidates.tolist() == view.candidates[0].tolist()
        np.testing.assert_array_equal(
            positions.confidence, np.where(scored, view.confidence[0].numpy(), np.nan)
        )
        assert set(positions.signals) == set(decision.signals or {})
        for key, values in (decision.signals or {}).items():
            given = values.expand(1, 8)[0].float().numpy()
            np.testing.assert_array_equal(
                positions.signals[key], np.where(scored, given, np.nan).astype(np.float32)
            )
        asked = decision.unmask[0].numpy()
        by_policy = positions.deciders == Decider.POLICY
        unmasked = positions.outcomes == Outcome.UNMASKED
        assert (unmasked & by_policy).tolist() == asked.tolist()
        forced = positions.deciders == Decider.GUARANTEE
        assert forced.sum() == (0 if asked.any() else 1)
        assert (forced <= unmasked).all()
        kept = ~masked & (positions.outcomes == Outcome.KEPT)
        assert (positions.deciders[kept] == Decider.NOBODY).all()


@pytest.mark.parametrize(("name", "args"), POLICIES)
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_carrying_out_the_outcomes_of_a_trace_gives_the_output(
    llm: LLM, prompts: list, name: str, args: dict, cache: str
) -> None:
    [output] = llm.generate(
        prompts[1], replace(PARAMS, remasking=name, remasking_args=args, cache=cache)
    )
    trace = output.trace
    assert trace is not None
    ids = trace.initial_ids.copy()
    assert ids[: trace.num_prompt_tokens].tolist() == list(output.prompt_token_ids)
    assert (ids[trace.num_prompt_tokens :] == MASK).all()
    for step in trace.steps:
        positions = step.positions
        block = ids[step.block_start : step.block_start + 8]
        assert step.block_start == trace.num_prompt_tokens + 8 * step.block_index
        assert (np.isin(positions.outcomes, (1, 2)) == (block == MASK)).all()
        unmasked, revoked = positions.outcomes == 2, positions.outcomes == 3
        assert (positions.candidates[revoked] == block[revoked]).all()
        block[unmasked] = positions.candidates[unmasked]
        block[revoked] = MASK
    assert ids.tolist() == trace.final_ids.tolist()
    visible = ids[trace.num_prompt_tokens :][: trace.num_visible_ids]
    assert visible.tolist() == list(output.token_ids)
    assert (trace.nfe, trace.num_unmasked) == (output.nfe, output.num_unmasked)
    assert sum(step.num_rows for step in trace.steps) == output.computed_rows
    refreshes = [step.kind == StepKind.REFRESH.value for step in trace.steps]
    opens = [at == 0 or trace.steps[at - 1].block_index < s.block_index for at, s in
             enumerate(trace.steps)]  # fmt: skip
    assert refreshes == (opens if cache == "dual" else [False] * trace.nfe)
    assert all(step.time_s > 0 for step in trace.steps)
    assert (trace.remasking, trace.remasking_args) == (name, args)
    assert (trace.cache, trace.cache_label) == (cache, output.cache_label)


def test_without_the_flag_nothing_is_recorded(llm: LLM, prompts: list) -> None:
    outputs = llm.generate(prompts, replace(PARAMS, trace=False))
    assert [output.trace for output in outputs] == [None] * len(prompts)


def test_traced_and_untraced_requests_of_a_batch_decode_alike(llm: LLM, prompts: list) -> None:
    plain = llm.generate(prompts, replace(PARAMS, trace=False))
    mixed = llm.generate(prompts, [replace(PARAMS, trace=at % 2 == 0) for at in range(4)])
    assert [output.trace is not None for output in mixed] == [True, False, True, False]
    for a, b in zip(plain, mixed, strict=True):
        assert (a.token_ids, a.nfe) == (b.token_ids, b.nfe)
    alone = traced(llm, prompts[2])
    shared = mixed[2].trace
    assert shared is not None
    for a_step, b_step in zip(alone.steps, shared.steps, strict=True):
        assert a_step.positions.outcomes.tolist() == b_step.positions.outcomes.tolist()
        np.testing.assert_allclose(
            a_step.positions.confidence, b_step.positions.confidence, atol=1e-5
        )


def test_an_aborted_request_has_the_trace_of_what_it_did(llm: LLM) -> None:
    engine = llm.engine
    engine.add_request([5, 6], replace(PARAMS, remasking="low_confidence"), "a")
    waiting = engine.abort("a")
    assert waiting is not None and waiting.trace is not None
    assert waiting.trace.steps == ()
    engine.add_request([5, 6], replace(PARAMS, remasking="low_confidence"), "b")
    engine.step()
    stopped = engine.abort("b")
    assert stopped is not None and stopped.trace is not None
    assert (stopped.trace.nfe, stopped.trace.finish_reason) == (1, "abort")
    assert (stopped.trace.final_ids == MASK).sum() == 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FailsAtTheThirdStep(StatelessPolicy):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        if view.step[0] == 2:
            raise ZeroDivisionError
        return Decision(unmask=torch.zeros_like(view.masked)), state


def test_a_failed_request_has_the_trace_of_the_steps_before(
    llm: LLM, prompts: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REMASKING_POLICIES, "create", lambda *_: FailsAtTheThirdStep())
    [output] = llm.generate(prompts[0], PARAMS)
    assert output.error is not None and output.trace is not None
    assert (output.nfe, output.trace.nfe, output.trace.finish_reason) == (3, 2, "error")
    assert (output.trace.final_ids != MASK).sum() == output.trace.num_prompt_tokens + 2
    for step in output.trace.steps:
        assert step.positions.deciders.tolist().count(Decider.GUARANTEE) == 1
    assert "trace" not in repr(output)


# Rows straight through the decoder, with policies that do what no shipped one does.

Choose = Callable[[BlockView], Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Does(StatelessPolicy):
    choose: Choose

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return self.choose(view), state


def decided(choose: Choose, ids: list[int], *, num_revoked: int = 0, trace: bool = True) -> Any:
    block = np.array(ids, np.int32)
    logits = torch.randn((len(ids), 11), generator=torch.Generator().manual_seed(1))
    row = DecodingRow(
        policy=Does(choose=choose),
        state={},
        block_ids=block,
        is_fixed=np.zeros(len(ids), np.bool_),
        mask_token_id=MASK,
        step=0,
        num_left=5,
        num_revoked=num_revoked,
        num_unmasked=0,
        num_masks=1,
        seed=0,
        score_offsets=np.arange(len(ids)),
        trace=trace,
    )
    present = torch.from_numpy(block.astype(np.int64))
    [result] = decide_rows([row], score_rows(logits, present, MASK, []), logits)
    return result


def positions_of(result: Any) -> PositionTrace:
    assert isinstance(result, RowDecision)
    assert result.trace is not None
    return result.trace


def revoke_first(view: BlockView) -> Decision:
    revoke = torch.zeros_like(view.masked)
    revoke[:, 0] = True
    return Decision(unmask=torch.zeros_like(view.masked), revoke=revoke)


def test_a_revocation_is_the_policys_and_the_forced_token_the_guarantees() -> None:
    positions = positions_of(decided(revoke_first, [7, 8, MASK]))
    assert positions.outcomes.tolist() == [Outcome.REVOKED, Outcome.KEPT, Outcome.UNMASKED]
    assert positions.deciders.tolist() == [Decider.POLICY, Decider.NOBODY, Decider.GUARANTEE]
    assert positions.candidates[:2].tolist() == [7, 8]


def test_a_revocation_beyond_the_bound_is_kept_by_the_engine() -> None:
    positions = positions_of(decided(revoke_first, [7, 8, MASK], num_revoked=12))
    assert positions.outcomes.tolist() == [Outcome.KEPT, Outcome.KEPT, Outcome.UNMASKED]
    assert positions.deciders.tolist() == [Decider.ENGINE, Decider.NOBODY, Decider.GUARANTEE]


def test_tokens_and_confidence_of_the_policy_stand_for_the_views() -> None:
    def choose(view: BlockView) -> Decision:
        return Decision(
            unmask=view.masked & (torch.arange(3) == 1),
            tokens=torch.full_like(view.candidates, 6),
            signals={"confidence": torch.full_like(view.confidence, 0.25), "extra": view.top2},
        )

    result = decided(choose, [MASK, MASK, MASK])
    positions = positions_of(result)
    assert result.unmask_ids.tolist() == [6]
    assert positions.candidates[1] == 6
    assert positions.candidates[0] != 6
    assert positions.confidence.tolist() == [0.25] * 3
    assert set(positions.signals) == {"extra"}


@pytest.mark.parametrize("trace", [True, False])
def test_a_signal_of_a_wrong_shape_fails_the_row_traced_or_not(trace: bool) -> None:
    def choose(view: BlockView) -> Decision:
        return Decision(unmask=view.masked, signals={"threshold": torch.zeros(2)})

    result = decided(choose, [MASK, MASK, MASK], trace=trace)
    assert "signal 'threshold' must be a tensor (1, 3)" in result.reason


def test_threshold_says_its_threshold(llm: LLM, prompts: list) -> None:
    trace = traced(llm, prompts[0], remasking="threshold", remasking_args={"threshold": 0.75})
    for step in trace.steps:
        masks = np.isin(step.positions.outcomes, (Outcome.MASKED, Outcome.UNMASKED))
        assert (step.positions.signals["threshold"][masks] == np.float32(0.75)).all()
        assert np.isnan(step.positions.signals["threshold"][~masks]).all()


def assert_same_trace(a: Trace, b: Trace) -> None:
    assert len(a.steps) == len(b.steps)
    for name in ("model", "remasking_args", "text", "seed", "token_texts", "cache_label"):
        assert getattr(a, name) == getattr(b, name)
    assert a.initial_ids.tolist() == b.initial_ids.tolist()
    assert a.final_ids.tolist() == b.final_ids.tolist()
    for mine, other in zip(a.steps, b.steps, strict=True):
        for name in ("kind", "block_index", "block_start", "num_live", "num_rows", "time_s"):
            assert getattr(mine, name) == getattr(other, name)
        p, q = mine.positions, other.positions
        assert list(p.signals) == list(q.signals)
        for x, y in zip(
            (p.candidates, p.confidence, p.outcomes, p.deciders, *p.signals.values()),
            (q.candidates, q.confidence, q.outcomes, q.deciders, *q.signals.values()),
            strict=True,
        ):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("name", "args"), POLICIES)
def test_json_gives_back_every_number(llm: LLM, prompts: list, name: str, args: dict) -> None:
    trace = traced(llm, prompts[0], remasking=name, remasking_args=args)
    text = trace.to_json()
    again = Trace.from_json(text)
    assert_same_trace(trace, again)
    assert again.to_json() == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_infinities_survive_json(llm: LLM, prompts: list) -> None:
    trace = traced(llm, prompts[0])
    step = trace.steps[0]
    odd = np.array([np.inf, -np.inf, np.nan, *[0.1] * 5], np.float32)
    changed = replace(step, positions=replace(step.positions, signals={"threshold": odd}))
    again = Trace.from_json(replace(trace, steps=(changed,)).to_json())
    np.testing.assert_array_equal(again.steps[0].positions.signals["threshold"], odd)


def test_texts_of_all_ids_are_in_the_trace(tmp_path: Path) -> None:
    llm = make_llm(write_word_model(tmp_path))
    trace = traced(llm, "w1 w2", PARAMS)
    assert trace.prompt_text == "w1 w2"
    occurring = {*trace.initial_ids.tolist(), *trace.final_ids.tolist()}
    for step in trace.steps:
        occurring |= set(step.positions.candidates.tolist())
    assert set(trace.token_texts) == occurring
    assert trace.token_texts[MASK] == "<mask>"
    assert trace.token_texts[5].strip() == "w1"


def test_a_model_without_a_tokenizer_has_ids_alone(llm: LLM, prompts: list) -> None:
    trace = traced(llm, prompts[0])
    assert (trace.token_texts, trace.prompt_text, trace.text) == ({}, "", "")


def broken(change: Callable[[dict], object]) -> Callable[[str], str]:
    def broken_text(text: str) -> str:
        plain = json.loads(text)
        change(plain)
        return json.dumps(plain)

    return broken_text


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda text: text[:-1], "not a trace"),
        (lambda text: "[1]", "it has no version"),
        (broken(lambda plain: plain.update(version=99)), "version 99"),
        (broken(lambda plain: plain.pop("seed")), "'seed'"),
        (broken(lambda plain: plain.update(text=3)), "text must be str"),
        (broken(lambda plain: plain["final_ids"].pop()), "lengths of its canvases"),
        (broken(lambda plain: plain["steps"][0]["outcomes"].pop()), "columns of step 1"),
        (broken(lambda plain: plain["steps"][0].update(block_start=99)), "not on the canvas"),
        (broken(lambda plain: plain["steps"][0]["outcomes"].__setitem__(0, 9)), "unknown outcome"),
        (broken(lambda plain: plain["steps"][0]["deciders"].__setitem__(0, 9)), "unknown decider"),
        (broken(lambda plain: plain["steps"][0].update(confidence=None)), "TypeError"),
    ],
)
def test_what_is_no_trace_is_refused(llm: LLM, prompts: list, spoil: Any, problem: str) -> None:
    text = traced(llm, prompts[0]).to_json()
    with pytest.raises(ConfigError, match=problem):
        Trace.from_json(spoil(text))


def test_a_batch_job_has_no_place_for_traces(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n')
    job = BatchJob(input=source, output=tmp_path / "out.jsonl", params=PARAMS)
    with pytest.raises(ConfigError, match="no place for traces"):
        check_job(job)
    raw = RawRow(index=0, columns={"prompt_token_ids": [5], "trace": True})
    row = parse_row(raw, SamplingParams(), lambda: pytest.fail("no text to encode"))
    assert (row.params.trace, row.carried) == (False, {"trace": True})


def test_the_flag_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="trace must be True or False, got 1"):
        SamplingParams(trace=1)
