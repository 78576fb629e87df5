"""Editing and holding in the engine: what may change, for how long, and what is counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.decoding.bad_words import BadWordGuard, BadWords
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.decoding.exit.base import exit_early
from starr_engine.decoding.guarantee import MAX_HELD_STEPS
from starr_engine.testing.policy_views import join
from starr_engine.trace import Outcome, Trace
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.policy_views import view
from tests.helpers.reference_llada2 import published_llada2_1

MASK = 3
SPEED: dict[str, Any] = {"threshold": 0.5, "edit_threshold": 0.0}
PARAMS = SamplingParams(
    max_tokens=20, block_length=8, ignore_eos=True, remasking="token_edit", remasking_args=SPEED
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    made = make_llm(folder)
    yield made
    assert_all_pages_free(made.engine)


PROMPTS = random_prompts(3, seed=12)


def ask(llm: LLM, **changes: Any) -> list[RequestOutput]:
    return llm.generate(as_prompts(PROMPTS), PARAMS.with_overrides(changes))


def facts(output: RequestOutput) -> tuple[Any, ...]:
    return output.token_ids, output.nfe, output.num_unmasked, output.num_edited


def test_a_bidirectional_model_edits_as_the_published_loop_does(llm: LLM, folder: Path) -> None:
    logits = Reference(folder).model.logits
    for args in (SPEED, {"threshold": 0.7, "edit_threshold": 0.3, "max_post_steps": 3}):
        outputs = ask(llm, remasking_args=args, cache="none")
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            published = published_llada2_1(
                logits, prompt, mask=MASK, ends=(), max_tokens=20, block_length=8,
                bidirectional=True, **args,
            )  # fmt: skip
            got = list(output.token_ids), output.nfe, output.num_edited
            assert got == (published.token_ids, published.nfe, published.num_edited)
            assert output.num_unmasked == 20
    assert sum(output.num_edited for output in ask(llm, cache="none")) > 5


@pytest.mark.parametrize(
    ("cache", "args"),
    [
        ("dual", {"refresh_every": 1}),
        ("prefix", {"refresh_every": 1}),
        ("delayed", {"refresh_every": 1}),
        ("dllm", {"prompt_interval": 1, "response_interval": 1}),
    ],
)
def test_where_nothing_is_reused_a_cache_edits_as_none_does(
    llm: LLM, cache: str, args: dict[str, Any]
) -> None:
    expected = [facts(output) for output in ask(llm, cache="none")]
    assert [facts(output) for output in ask(llm, cache=cache, cache_args=args)] == expected


def test_a_request_edits_alone_as_in_a_batch_with_a_temperature_too(llm: LLM) -> None:
    for changes in ({}, {"temperature": 0.7, "seed": 5}):
        together = ask(llm, **changes)
        for prompt, output in zip(PROMPTS, together, strict=True):
            alone = llm.generate(as_prompts([prompt]), PARAMS.with_overrides(changes))
            assert facts(alone[0]) == facts(output)


def replayed(trace: Trace) -> list[int]:
    """The canvas after all steps, from what the trace says of each."""
    ids = trace.initial_ids.copy()
    for step in trace.steps:
        for at, outcome in enumerate(step.positions.outcomes, start=step.block_start):
            if outcome in (Outcome.UNMASKED, Outcome.EDITED):
                ids[at] = step.positions.candidates[at - step.block_start]
    return ids.tolist()


def test_a_trace_tells_every_edit_and_the_output_counts_them(llm: LLM) -> None:
    for output in ask(llm, trace=True, logprobs=0):
        assert output.trace is not None
        outcomes = np.concatenate([step.positions.outcomes for step in output.trace.steps])
        assert output.num_edited == (outcomes == Outcome.EDITED).sum() > 0
        assert replayed(output.trace) == output.trace.final_ids.tolist()
        assert Trace.from_json(output.trace.to_json()).num_unmasked == 20
        assert output.logprobs is not None
        # The last word on a position counts, be it an unmasking or an edit.
        assert tuple(entry.token_id for entry in output.logprobs) == output.token_ids


def test_edited_rows_are_dirty_until_they_are_computed_again(llm: LLM) -> None:
    engine = llm.engine
    engine.add_request(PROMPTS[0], PARAMS.with_overrides({"trace": True, "cache": "dual"}))
    seen = 0
    while engine.has_unfinished:
        engine.step()
        for running in engine.scheduler._running:
            assert running.recorder is not None
            assert running.pages is not None
            step = running.recorder._steps[-1]
            edited = np.flatnonzero(step.positions.outcomes == Outcome.EDITED) + step.block_start
            dirty = {row for bounds in running.pages.dirty_ranges() for row in range(*bounds)}
            assert dirty.issuperset(edited.tolist())
            seen += len(edited)
    assert seen > 0


def test_fixed_tokens_are_never_edited(llm: LLM) -> None:
    template = [4, [11, 12, 13], 6, [14]]
    params = PARAMS.with_overrides({"cache": "none"})
    [output] = llm.generate([{"prompt_token_ids": [5, 6], "template": template}], params)
    assert output.token_ids[4:7] == (11, 12, 13)
    assert output.num_edited > 0


@dataclass(frozen=True)
class Restless(StatelessPolicy):
    """Unmasks everything at once, then turns every token to and fro, and is never done."""

    scores_unmasked: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        tokens = torch.where(view.candidates == 10, 11, 10)
        return Decision(
            unmask=view.masked,
            edit=~view.masked,
            tokens=tokens,
            hold=torch.ones_like(view.step, dtype=torch.bool),
        ), state


@dataclass(frozen=True)
class Says(StatelessPolicy):
    """Answers with what ``choose`` makes of a view."""

    scores_unmasked: ClassVar[bool] = True
    choose: Callable[[BlockView], Decision]

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return self.choose(view), state


class SaysUnseen(Says):
    """As above, without asking to see its tokens again."""

    scores_unmasked: ClassVar[bool] = False


@pytest.fixture
def run(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RequestOutput]:
    def with_policy(policy: Any, **changes: Any) -> RequestOutput:
        monkeypatch.setattr(REMASKING_POLICIES, "create", lambda *_: policy)
        fields = {"max_tokens": 8} | changes
        return llm.generate(as_prompts(PROMPTS[:1]), PARAMS.with_overrides(fields))[0]

    return with_policy


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_policy_that_is_never_done_ends_within_the_bound(
    run: Callable[..., RequestOutput], cache: str
) -> None:
    output = run(Restless(), cache=cache)
    assert (output.error, output.nfe) == (None, 1 + MAX_HELD_STEPS)
    # Held after the first step and the next 63; every step but the first edits all eight tokens.
    assert output.num_edited == 8 * MAX_HELD_STEPS


@dataclass(frozen=True)
class Fills:
    """Fills the first row at once."""

    def decide(self, view: BlockView) -> torch.Tensor:
        return view.step == 0


def test_a_block_that_early_exit_fills_is_not_held() -> None:
    rows = view([0.5, 0.5], masked=[True, False])
    rows = join([rows, replace(rows, step=rows.step + 1)])
    decision, _ = Restless().decide(rows, {})
    after = exit_early(Fills(), rows, decision)
    assert after.hold is not None
    assert after.hold.tolist() == [False, True]
    assert after.edit is decision.edit


def ones(view: BlockView) -> torch.Tensor:
    return torch.ones_like(view.masked)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Says(choose=lambda v: Decision(unmask=v.masked, edit=ones(v))), "edited .* is a mask"),
        (
            Says(choose=lambda v: Decision(unmask=v.masked, edit=ones(v).float())),
            r"edit must be a bool tensor \(1, 8\)",
        ),
        (
            Says(choose=lambda v: Decision(unmask=v.masked, hold=ones(v))),
            r"hold must be a bool tensor \(1,\)",
        ),
        (
            Says(
                choose=lambda v: Decision(
                    unmask=v.masked & (v.masked.cumsum(1) == 1), edit=~v.masked, revoke=~v.masked
                )
            ),
            "it edited a position that it revoked",
        ),
        (
            SaysUnseen(choose=lambda v: Decision(unmask=v.masked, edit=~v.masked)),
            "edit and hold are for policies with scores_unmasked",
        ),
    ],
)
def test_a_decision_that_breaks_a_rule_fails_its_request_with_the_reason(
    run: Callable[..., RequestOutput], policy: Any, reason: str
) -> None:
    output = run(policy)
    assert output.error is not None
    assert re.search(reason, output.error), output.error


def test_an_edit_that_completes_a_bad_word_is_left_out() -> None:
    guard = BadWordGuard(
        bad_words=BadWords(words=((7, 8), (8, 9, 7))),
        output_ids=np.array([1, 7, 5, MASK, 9, 6], np.int32),
        block_start=1,
        mask_token_id=MASK,
    )
    at = np.array
    # Position 3 gets an 8. Then an 8 at 2 completes "7 8", and a 7 at 5 completes "8 9 7". Offsets
    # are counted from position 1.
    put: dict[str, Any] = {"revoke": at([], np.int64), "unmask": at([2]),
                           "unmask_ids": at([8], np.int32)}  # fmt: skip
    kept = guard.keep_edits(**put, edit=at([1, 4]), edit_ids=at([8, 7], np.int32))
    assert kept.tolist() == [False, False]
    kept = guard.keep_edits(**put, edit=at([0, 1, 4]), edit_ids=at([2, 8, 2], np.int32))
    assert kept.tolist() == [True, True, True]  # the 7 in front of it went first
