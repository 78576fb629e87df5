"""A request that cannot be decided ends with its reason and takes no other with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from starr_engine import LLM, SamplingParams
from starr_engine.cli.main import main
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.decoding.guarantee import MAX_REVOCATIONS_PER_POSITION
from starr_engine.engine.step_batch import StepBatch
from starr_engine.outputs import FinishReason, RequestOutput
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.word_models import write_word_model

WELL = SamplingParams(max_tokens=16, block_length=8, remasking="threshold", cache="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Raising(StatelessPolicy):
    """Raises once a row has more than ``most`` tokens in front of its block."""

    most: int = 0

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        if (view.num_left > self.most).any():
            raise ZeroDivisionError("no idea")
        return Decision(unmask=view.masked), state


@dataclass(frozen=True, slots=True, kw_only=True)
class Careless(StatelessPolicy):
    """Lets the engine unmask one position, and then unmasks the token there, too."""

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=(view.step > 0)[:, None].expand_as(view.masked)), state


@dataclass(frozen=True, slots=True, kw_only=True)
class Fickle(StatelessPolicy):
    """Takes everything and revokes everything, for ever."""

    scores_unmasked = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=view.masked, revoke=~view.masked), state


@dataclass(frozen=True, slots=True, kw_only=True)
class FickleInTurns(StatelessPolicy):
    """Revokes the whole block whenever it is full but for one position."""

    scores_unmasked = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        last = torch.arange(view.masked.shape[1]) == view.masked.shape[1] - 1
        nearly = (view.masked == last).all(1, keepdim=True)
        unmask = view.masked & ~last & ~nearly
        return Decision(unmask=unmask, revoke=~view.masked & nearly), state


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return make_llm(sharp_checkpoint(tmp_path_factory.mktemp("sharp")))


@pytest.fixture(autouse=True)
def _policies(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in (Raising, Careless, Fickle, FickleInTurns):
        monkeypatch.setitem(REMASKING_POLICIES._targets, policy.__name__, policy)


def run_together(llm: LLM, bad: SamplingParams, prompts: list[list[int]]) -> list[RequestOutput]:
    """The bad request between two good ones, which must end as they do alone."""
    params = [WELL, bad, WELL]
    outputs = llm.generate(as_prompts(prompts), params)
    for index in (0, 2):
        alone = llm.generate(as_prompts([prompts[index]]), WELL)[0]
        assert outputs[index].token_ids == alone.token_ids
        assert outputs[index].error is None
    assert_all_pages_free(llm.engine)
    llm.engine.page_pool.check_invariants()
    return outputs


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_policy_that_raises_ends_its_request_alone(llm: LLM, cache: str) -> None:
    bad = SamplingParams(max_tokens=16, block_length=8, remasking="Raising", cache=cache)
    failed = run_together(llm, bad, random_prompts(3))[1]
    assert failed.finish_reason is FinishReason.ERROR
    assert failed.error == "Raising failed: ZeroDivisionError: no idea"
    assert failed.token_ids == ()
    assert failed.nfe == 1


def test_of_two_requests_under_one_policy_only_the_guilty_one_fails(llm: LLM) -> None:
    prompts = [[5] * 4, [6] * 9]
    params = SamplingParams(
        max_tokens=8, block_length=8, remasking="Raising", remasking_args={"most": 6}
    )
    good, bad = llm.generate(as_prompts(prompts), params)
    assert good.error is None
    assert bad.error is not None


def test_blocks_committed_before_a_failure_are_kept(llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=16, block_length=8, remasking="Raising", remasking_args={"most": 4},
        ignore_eos=True,
    )  # fmt: skip
    failed = llm.generate(as_prompts([[5] * 4]), params)[0]
    assert failed.finish_reason is FinishReason.ERROR
    assert len(failed.token_ids) == 8


def test_a_decision_against_the_rules_is_named(llm: LLM) -> None:
    bad = SamplingParams(max_tokens=16, block_length=16, remasking="Careless", cache="none")
    failed = run_together(llm, bad, random_prompts(3))[1]
    assert failed.error == "Careless failed: ValueError: it unmasked a position that is no mask"


@pytest.mark.parametrize("name", ["Fickle", "FickleInTurns"])
def test_a_policy_that_revokes_for_ever_comes_to_an_end(llm: LLM, name: str) -> None:
    params = SamplingParams(max_tokens=8, block_length=8, remasking=name, ignore_eos=True)
    output = llm.generate(as_prompts(random_prompts(1)), params)[0]
    assert output.finish_reason is FinishReason.LENGTH
    assert output.nfe <= (2 + MAX_REVOCATIONS_PER_POSITION) * 8


def poison(llm: LLM, request_id: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil the logits of one request from its second forward on."""
    forward = llm.engine.executor.forward

    def spoiled(batch: StepBatch) -> Tensor:
        logits = forward(batch).clone()
        first = 0
        for entry, positions in zip(batch.entries, batch.score_positions, strict=True):
            request = entry.running.request
            if request.request_id == request_id and request.num_forwards > 0:
                logits[first] = value
            first += len(positions)
        return logits

    monkeypatch.setattr(llm.engine.executor, "forward", spoiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("remasking", ["low_confidence", "threshold", "starr"])
def test_logits_that_are_no_numbers_end_their_request_alone(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, value: float, remasking: str
) -> None:
    bad = SamplingParams(
        max_tokens=16, block_length=16, remasking=remasking, cache="dual", ignore_eos=True,
        remasking_args={"threshold": 2.0} if remasking == "threshold" else {},
    )  # fmt: skip
    with monkeypatch.context() as patch:
        poison(llm, "1", value, patch)
        outputs = llm.generate(as_prompts(random_prompts(3)), [WELL, bad, WELL])
    assert [output.error is None for output in outputs] == [True, False, True]
    assert "not finite" in str(outputs[1].error)
    assert_all_pages_free(llm.engine)


def test_a_row_of_a_batch_job_fails_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_word_model(tmp_path / "model")
    rows = [
        {"prompt": "w1 w2"},
        {"prompt": "w1 w2", "remasking": "Raising"},
        {"prompt": "w3"},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--max-tokens", "8", "--block-length", "8", "--remasking", "threshold"]
    main(["batch", "--model", str(model), "--input", str(source), "--output", str(target), *flags])
    capsys.readouterr()
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["error"] for row in written] == [
        None, "Raising failed: ZeroDivisionError: no idea", None,
    ]  # fmt: skip
    assert written[1]["text"] is None


def test_the_commands_for_one_prompt_report_the_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_word_model(tmp_path / "model")
    flags = ["--model", str(model), "--max-tokens", "8", "--block-length", "8"]
    assert main(["generate", "w1 w2", *flags, "--remasking", "Raising"]) == 2
    assert "Raising failed: ZeroDivisionError" in capsys.readouterr().err
