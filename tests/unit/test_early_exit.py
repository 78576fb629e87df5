"""Early exit: the published rules against hand-worked numbers, and what the engine does then."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from starr_engine import LLM, RequestError, SamplingParams
from starr_engine.cli.main import main
from starr_engine.decoding.base import BlockView, Decision
from starr_engine.decoding.exit.base import EXIT_RULES, ExitRule, exit_early
from starr_engine.decoding.exit.margin import mean_margin
from starr_engine.decoding.exit.prophet import ProphetRule
from starr_engine.decoding.exit.sched import SchedRule
from tests.helpers.engines import as_prompts, make_llm, random_prompts, sharp_checkpoint
from tests.helpers.policy_views import view
from tests.helpers.word_models import write_word_model

ALWAYS: dict[str, Any] = {"early_exit": "sched", "early_exit_args": {"high": 0, "low": 0}}
NEVER: dict[str, Any] = {"early_exit": "sched", "early_exit_args": {"high": 1e9, "low": 1e9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return make_llm(folder)


def small(**changes: Any) -> SamplingParams:
    base = {"max_tokens": 16, "block_length": 8, "ignore_eos": True, "remasking": "low_confidence"}
    return SamplingParams(**(base | changes))


def lead(*margins: float, progress: float = 0.0, masked: list[bool] | None = None) -> BlockView:
    """Masks whose first token is ahead of the second by these many nats."""
    second = [1 / (1 + math.exp(margin)) for margin in margins]
    first = [1 - p for p in second]
    return view(first, top2=second, progress=progress, masked=masked)


def exits(rule: ExitRule, look: BlockView) -> bool:
    return bool(rule.decide(look).item())


def test_the_margin_is_the_mean_difference_of_logits_over_the_masks() -> None:
    # ln(.6 / .3) = .6931 and ln(.9 / .1) = 2.1972; the last one is no mask.
    look = view([0.6, 0.9, 0.5], top2=[0.3, 0.1, 0.5], masked=[True, True, False])
    expected = (math.log(2) + math.log(9)) / 2
    assert mean_margin(look).tolist() == pytest.approx([expected])
    assert mean_margin(lead(1.5, 2.5)).tolist() == pytest.approx([2.0])
    # No second token at all is a lead that float32 can still tell: ln(1 / 1.18e-38).
    assert mean_margin(view([1.0], top2=[0.0])).tolist() == pytest.approx([87.3365], rel=1e-5)
    assert mean_margin(view([0.5], masked=[False])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("progress", "threshold"),
    [(0.0, 7.5), (0.32, 7.5), (0.34, 5.0), (0.66, 5.0), (0.68, 2.5), (1.0, 2.5)],
)
def test_prophet_asks_for_less_lead_in_each_third(progress: float, threshold: float) -> None:
    rule = ProphetRule()
    assert exits(rule, lead(threshold - 0.5, threshold + 0.6, progress=progress))
    assert not exits(rule, lead(threshold - 0.6, threshold + 0.5, progress=progress))


@pytest.mark.parametrize(
    ("schedule", "progress", "threshold"),
    [
        ("linear", 0.0, 7.5),
        ("linear", 0.25, 6.25),
        ("linear", 1.0, 2.5),
        ("cosine", 0.0, 7.5),
        ("cosine", 1 / 3, 6.25),  # 2.5 + 5 * (1 + 1/2) / 2
        ("cosine", 0.5, 5.0),
        ("cosine", 1.0, 2.5),
        ("exp", 0.0, 7.5),
        ("exp", 0.5, 2.5 + 5 * math.exp(-2)),
    ],
)
def test_sched_follows_its_schedule(schedule: str, progress: float, threshold: float) -> None:
    rule = SchedRule(schedule=schedule)
    assert exits(rule, lead(threshold + 0.01, progress=progress))
    assert not exits(rule, lead(threshold - 0.01, progress=progress))


@dataclass(frozen=True)
class Says:
    """An exit rule with a fixed answer."""

    answer: tuple[Any, ...]

    def decide(self, view: BlockView) -> Tensor:
        return torch.tensor(self.answer)


def test_an_exit_fills_the_masks_with_the_policys_tokens_and_revokes_nothing() -> None:
    look = view([0.5, 0.5, 0.5], masked=[True, True, False])
    decision = Decision(
        unmask=torch.tensor([[True, False, False]]),
        revoke=torch.tensor([[False, False, True]]),
        tokens=torch.tensor([[7, 8, 9]]),
    )
    left = exit_early(Says((True,)), look, decision)
    assert left.unmask.tolist() == [[True, True, False]]
    assert left.revoke is not None and not left.revoke.any()
    assert left.tokens is decision.tokens
    for rule in (None, Says((False,))):
        kept = exit_early(rule, look, decision)
        assert torch.equal(kept.unmask, decision.unmask)
        assert kept.revoke is not None and decision.revoke is not None
        assert torch.equal(kept.revoke, decision.revoke)
    with pytest.raises(ValueError, match=r"Says must give a bool tensor \(1,\)"):
        exit_early(Says((1,)), look, decision)


def test_rows_exit_one_by_one() -> None:
    one, other = lead(9.0, 9.0), lead(9.0, 1.0)
    both = replace(
        one,
        **{
            name: torch.cat([getattr(one, name), getattr(other, name)])
            for name in BlockView.__slots__
            if getattr(one, name) is not None
        },
    )
    assert SchedRule().decide(both).tolist() == [True, False]


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_off_by_default_and_each_exit_saves_the_rest_of_its_block(llm: LLM, cache: str) -> None:
    prompts = as_prompts(random_prompts(4, seed=5))
    off = llm.generate(prompts, small(cache=cache))
    never = llm.generate(prompts, small(cache=cache, **NEVER))
    always = llm.generate(prompts, small(cache=cache, **ALWAYS))
    at_once = llm.generate(
        prompts, small(cache=cache, remasking="threshold", remasking_args={"threshold": 0})
    )
    assert [out.nfe for out in off] == [16] * 4
    assert [(out.token_ids, out.nfe) for out in never] == [(out.token_ids, 16) for out in off]
    assert [out.nfe for out in always] == [2] * 4  # one forward a block
    assert [(out.num_unmasked, out.tpf) for out in always] == [(16, 8.0)] * 4
    assert [out.token_ids for out in always] == [out.token_ids for out in at_once]


def test_an_exit_goes_by_the_progress_of_the_whole_answer(llm: LLM) -> None:
    # One token per step: at step 6 of the first block 6 / 16 = .375 are unmasked, the rest follows
    # in that forward; the second block begins at .5 and takes one.
    args = {"early": 1e9, "middle": 0, "late": 0}
    [output] = llm.generate(
        as_prompts([[5, 6, 7]]), small(early_exit="prophet", early_exit_args=args)
    )
    assert (output.nfe, output.num_unmasked) == (7 + 1, 16)


def test_requests_with_and_without_exit_share_a_batch(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(12, seed=6))
    policies: list[dict[str, Any]] = [
        {"remasking": "low_confidence"},
        {"remasking": "saber"},
        {"remasking": "credit"},
    ]
    some = {"early_exit": "sched", "early_exit_args": {"high": 0.5, "low": 0.5}}
    params = [
        small(cache="none", **policy, **rule)
        for policy in policies
        for rule in ({}, NEVER, ALWAYS, some)
    ]
    mixed = llm.generate(prompts, params)
    for prompt, wanted, output in zip(prompts, params, mixed, strict=True):
        [alone] = llm.generate([prompt], wanted)
        assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)
    nfe = [output.nfe for output in mixed]
    assert nfe[:3] == [16, 16, 2]
    assert 2 < nfe[3] < 16


def test_a_rule_that_fails_ends_its_request_alone(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Failing:
        def decide(self, view: BlockView) -> Tensor:
            raise ZeroDivisionError("no idea")

    monkeypatch.setattr(EXIT_RULES, "_targets", dict(EXIT_RULES._targets))
    EXIT_RULES.add("failing", Failing)
    prompts = as_prompts([[5, 6], [7, 8]])
    bad, good = llm.generate(prompts, [small(early_exit="failing"), small()])
    assert bad.error == ("LowConfidencePolicy with Failing failed: ZeroDivisionError: no idea")
    assert (good.error, good.nfe) == (None, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_exit": 3}, "early_exit must be a rule name or None, got 3"),
        ({"early_exit_args": {"low": 1}}, "early_exit_args are given, but no early_exit names"),
        ({"early_exit": "sched", "early_exit_args": [1]}, "early_exit_args must map names"),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**changes)


@pytest.mark.parametrize(
    ("rule", "args", "message"),
    [
        ("shed", {}, "unknown early exit rule 'shed'; did you mean 'sched'"),
        ("sched", {"tau": 1}, "early exit rule 'sched' has no argument 'tau'"),
        ("sched", {"schedule": "step"}, "schedule must be 'linear', 'cosine' or 'exp', got 'step'"),
        ("sched", {"high": 1.0}, "low must not exceed high: 2.5 > 1.0"),
        ("prophet", {"late": -1}, "late must be a finite number >= 0"),
    ],
)
def test_unknown_rules_and_bad_arguments_are_refused_when_asked_for(
    llm: LLM, rule: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.engine.add_request([5], small(early_exit=rule, early_exit_args=args))
    assert not llm.engine.has_unfinished


def test_flags_and_batch_rows_ask_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_word_model(tmp_path / "words"))
    flags = ["--model", model, "--max-tokens", "16", "--block-length", "8", "--device", "cpu",
             "--remasking", "low_confidence", "--ignore-eos"]  # fmt: skip
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "w1"},
        {"prompt": "w1", "early_exit": "prophet"},  # with its own arguments, not the flags'
        {"prompt": "w1", "early_exit_args": {"high": 1e9, "low": 1e9}},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--early-exit", "sched", "--early-exit-arg", "high=0", "--early-exit-arg", "low=0"]
    files = ["--input", str(source), "--output", str(output)]
    assert main(["batch", *flags, *files, *given]) == 0
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["error"] for row in results] == [None] * 3
    assert (results[0]["nfe"], results[2]["nfe"]) == (2, 16)
    capsys.readouterr()
    assert main(["batch", *flags, *files, "--early-exit", "shed"]) == 2
    assert "did you mean 'sched'" in capsys.readouterr().err
