"""The STaRR ops against their PyTorch references; tests/gpu runs the same cases on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from starr_engine import ops, ops_reference
from starr_engine.starr_types import StarrRule
from tests.helpers import starr_cases
from tests.helpers.starr_cases import random_block

CPU = torch.device("cpu")
LENGTHS = (1, 2, 7, 16, 31, 32, 33, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("logit_signal", [False, True])
def test_a_step_is_that_of_the_reference(
    length: int, dtype: torch.dtype, logit_signal: bool
) -> None:
    for seed in range(12):
        block = random_block(seed, rows=1 + seed % 5, length=length, dtype=dtype)
        starr_cases.check_step(CPU, block, logit_signal)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("with_signal", [False, True])
@pytest.mark.parametrize("at_odds", [False, True])
def test_a_decision_is_that_of_the_reference(length: int, with_signal: bool, at_odds: bool) -> None:
    for seed in range(12):
        block = random_block(seed, rows=1 + seed % 5, length=length)
        starr_cases.check_decide(CPU, block, with_signal=with_signal, at_odds=at_odds)


def test_a_block_follows_the_reference_to_its_end() -> None:
    # Both go on from their own state, so that an error would build up.
    for seed in range(10):
        block = random_block(seed, rows=4, length=16)
        mine = theirs = block.state
        generator = torch.Generator().manual_seed(seed)
        for _ in range(12):
            candidates = torch.randint(0, 2, block.masked.shape, generator=generator)
            confidence = torch.rand(block.masked.shape, generator=generator)
            given = (candidates, confidence, block.masked, block.num_left)
            got = ops.starr_decide(*given, mine, block.rule)
            expected = ops_reference.starr_decide(*given, theirs, block.rule)
            starr_cases.check_decision(got, expected, confidence, block.rule)
            mine, theirs = got.state, expected.state


@pytest.mark.parametrize("quantile", [0.0, 0.1, 1 / 3, 0.5, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 64])
def test_the_step_threshold_is_torchs_quantile_to_the_last_bit(quantile: float, count: int) -> None:
    confidence = torch.rand(3, count)
    block = random_block(0, rows=3, length=count)
    rule = neutral_rule()._replace(quantile=quantile)
    got = ops.starr_decide(
        torch.zeros(3, count, dtype=torch.int64), confidence,
        torch.ones(3, count, dtype=torch.bool), torch.zeros(3, dtype=torch.int64),
        block.state, rule,
    )  # fmt: skip
    expected = torch.nanquantile(confidence, quantile, dim=1, keepdim=True)
    # torch's product and sum are one rounding or two, depending on the machine.
    exact = (quantile * (count - 1)) % 1 == 0
    torch.testing.assert_close(
        got.threshold, expected.expand_as(got.threshold), rtol=0 if exact else 2e-7, atol=0
    )


def test_steps_do_not_depend_on_the_number_of_threads_or_on_the_other_rows() -> None:
    block = random_block(3, rows=40, length=32, vocab=1500)
    arguments = list(block.step_arguments)
    arguments[1] = 1499
    torch.set_num_threads(1)
    scores, decision = ops.starr_step(*arguments)
    torch.set_num_threads(2)
    again = ops.starr_step(*arguments)
    for mine, other in ((scores, again[0]), (decision, again[1])):
        assert all(
            torch.equal(a, b)
            for a, b in zip(mine, other, strict=True)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        )
    row = slice(17, 18)
    state = type(block.state)(*(values[row].contiguous() for values in block.state))
    alone, alone_decision = ops.starr_step(
        block.logits, 1499, block.row_of[row], block.present[row], block.masked[row],
        block.num_left[row], state, block.rule,
    )  # fmt: skip
    assert torch.equal(alone.confidence, scores.confidence[row])
    assert torch.equal(alone_decision.threshold, decision.threshold[row])
    assert torch.equal(alone_decision.unmask, decision.unmask[row])


def test_nothing_that_was_given_is_changed() -> None:
    block = random_block(5, rows=3, length=8)
    kept = random_block(5, rows=3, length=8)
    ops.starr_step(*block.step_arguments)
    for name in ("logits", "row_of", "present", "masked", "num_left"):
        assert torch.equal(getattr(block, name), getattr(kept, name))
    assert all(map(torch.equal, block.state, kept.state))


def test_no_row_and_no_position_are_no_work() -> None:
    for rows, length in ((0, 8), (2, 0)):
        block = random_block(0, rows=rows, length=length)
        scores, decision = ops.starr_step(*block.step_arguments)
        assert scores.candidates.shape == decision.unmask.shape == (rows, length)


def test_a_row_of_nan_is_not_decided_and_leaves_the_others_alone() -> None:
    block = random_block(1, rows=2, length=4)
    masked = torch.ones(2, 4, dtype=torch.bool)
    row_of = torch.arange(8).view(2, 4)
    logits = torch.randn(8, starr_cases.VOCAB)
    arguments = [
        *(logits, starr_cases.MASK_TOKEN, row_of, block.present, masked),
        *(block.num_left, block.state, neutral_rule()),
    ]
    _, good = ops.starr_step(*arguments)
    arguments[0] = logits.clone()
    arguments[0][2] = torch.nan
    scores, decision = ops.starr_step(*arguments)
    assert scores.confidence.isnan().tolist() == [[False, False, True, False], [False] * 4]
    assert not decision.unmask[0, 2]
    assert torch.equal(decision.threshold[1], good.threshold[1])
    assert torch.equal(decision.unmask[1], good.unmask[1])


@pytest.mark.parametrize("op", ["starr_decide", "starr_step"])
def test_ops_are_registered_as_torch_expects(op: str) -> None:
    starr_cases.check_registration(CPU, op)


def neutral_rule() -> StarrRule:
    """The threshold is the quantile and nothing else."""
    return StarrRule(
        neighbour_window=2, quantile=0.5, tau_min=0, tau_max=2, sigma=1, alpha=0, beta=0,
        support=0, gamma=0, c_fast=2, c_slow=0, patience=-1, relax=0, restart_on_flip=True,
        revoke_below=-1,
    )  # fmt: skip


def _step(**changes: Any) -> Callable[[], object]:
    def call() -> object:
        block = random_block(0, rows=2, length=3)
        names = (
            "logits", "forbidden_token", "row_of", "present", "masked", "num_left", "state", "rule",
        )  # fmt: skip
        arguments = dict(zip(names, block.step_arguments, strict=True))
        arguments["logits"] = torch.zeros(6, starr_cases.VOCAB)
        for name, change in changes.items():
            arguments[name] = change(arguments[name])
        return ops.starr_step(**arguments)

    return call


WRONG_CALLS = {
    "starr_step: logits must be [M, V], got 1 dimensions": _step(logits=lambda x: x[0]),
    "starr_step: logits must be float32 or bfloat16, got Double": _step(
        logits=lambda x: x.double()
    ),
    "starr_step: forbidden_token must be -1 (none) or an index below 61, got 61": _step(
        forbidden_token=lambda x: 61
    ),
    "starr_step: row_of has 6, there are 6 rows of logits": _step(row_of=lambda x: x * 0 + 6),
    "starr_step: row_of has -2, there are 6 rows of logits": _step(row_of=lambda x: x * 0 - 2),
    "starr_step: position 0 is masked and has no row of logits": _step(
        masked=lambda x: x | True, row_of=lambda x: x * 0 - 1
    ),
    "starr_step: present has 61, the vocabulary has 61 entries": _step(
        masked=lambda x: x & False, row_of=lambda x: x * 0, present=lambda x: x * 0 + 61
    ),
    "starr_step: present must be int64, got Int": _step(present=lambda x: x.int()),
    "starr_step: masked must be [2, 3]": _step(masked=lambda x: x[:, :2]),
    "starr_step: num_left must have 2 rows, got 1": _step(num_left=lambda x: x[:1]),
    "starr_step: row_of must be contiguous": _step(
        row_of=lambda x: x.repeat(1, 2).view(2, 3, 2)[..., 0]
    ),
    "starr_step: sigma must be above 0, got 0": _step(rule=lambda x: x._replace(sigma=0)),
    "starr_step: quantile must be in [0, 1], got 2": _step(rule=lambda x: x._replace(quantile=2)),
    "starr_step: ring must be [2, 3, temporal window]": _step(
        state=lambda x: x._replace(ring=x.ring[..., :0])
    ),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_a_wrong_argument_is_named(message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        WRONG_CALLS[message]()
    assert message in str(error.value)


def test_neighbourhood_counts_tokens_before_the_block_and_not_masks_behind_it() -> None:
    def of(confidence: list[float], num_left: int, window: int) -> torch.Tensor:
        return ops_reference.neighbourhood(
            torch.tensor([confidence]), torch.tensor([num_left]), window
        )

    # Window 2, one prompt token. Position 0: {prompt 1, .4, .6}; 1: {1, .2, .6}; 2: {.2, .4}.
    expected = torch.tensor([[2.0 / 3, 1.8 / 3, 0.3]])
    torch.testing.assert_close(of([0.2, 0.4, 0.6], 1, 2), expected)
    assert of([0.2], 0, 2).isnan().all()
    # A window wider than block and prompt together.
    torch.testing.assert_close(of([0.2, 0.4], 1, 9), torch.tensor([[0.7, 0.6]]))
