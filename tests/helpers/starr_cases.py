"""Random STaRR steps, and how the compiled ops may differ from their PyTorch references.

Decisions must be the same, except where confidence and threshold lie within ``NEAR`` of each
other: the two add up in another order. Everything that is no sum is compared exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from starr_engine import ops, ops_reference
from starr_engine.starr_types import StarrDecision, StarrRule, StarrScores, StarrState

NEAR = 1e-6
VOCAB = 61
MASK_TOKEN = VOCAB - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Blocks [n, L] at some step, and the logits [M, V] of their scored positions."""

    logits: Tensor
    row_of: Tensor
    present: Tensor
    masked: Tensor
    num_left: Tensor
    state: StarrState
    rule: StarrRule

    def to(self, device: torch.device) -> Block:
        moved = {
            name: getattr(self, name).to(device)
            for name in ("logits", "row_of", "present", "masked", "num_left")
        }
        state = StarrState(*(values.to(device) for values in self.state))
        return Block(**moved, state=state, rule=self.rule)

    @property
    def step_arguments(self) -> tuple[Any, ...]:
        return (
            *(self.logits, MASK_TOKEN, self.row_of, self.present),
            *(self.masked, self.num_left, self.state, self.rule),
        )


def random_rule(generator: torch.Generator) -> StarrRule:
    """Any arguments that the policy takes."""

    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    tau_min, tau_max = sorted((number(0, 1.1), number(0, 1.1)))
    c_slow, c_fast = sorted((number(0, 1.1), number(0, 1.1)))
    return StarrRule(
        neighbour_window=integer(0, 9),
        quantile=(0.0, 1.0, 0.5, number(0, 1))[integer(0, 3)],
        tau_min=tau_min,
        tau_max=tau_max,
        sigma=number(0.05, 2),
        alpha=number(0, 1),
        beta=number(0, 1),
        support=number(0, 1),
        gamma=number(0, 2),
        c_fast=c_fast,
        c_slow=c_slow,
        patience=integer(-1, 4),
        relax=number(0, 0.3),
        restart_on_flip=bool(integer(0, 1)),
        revoke_below=(-1.0, number(0, 1))[integer(0, 1)],
    )


def random_block(
    seed: int, rows: int, length: int, dtype: torch.dtype = torch.float32, vocab: int = VOCAB
) -> Block:
    """Ragged: some positions hold tokens, some of these are scored again, rows in any order."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    shape = (rows, length)
    mask_token = vocab - 1
    masked = torch.rand(shape, generator=generator) < torch.rand((rows, 1), generator=generator)
    present = integers(0, mask_token, *shape).masked_fill(masked, mask_token)
    scored = masked | (torch.rand(shape, generator=generator) < 0.5)
    count = int(scored.sum())
    row_of = torch.full(shape, -1)
    row_of[scored] = torch.randperm(count, generator=generator)
    # From flat to certain; whole numbers, so that confidences tie here and there.
    scale = torch.rand((count, 1), generator=generator) * 4
    logits = (torch.randn((count, vocab), generator=generator) * scale).round() / 2
    window = int(integers(1, 7, 1))
    seen = integers(0, 2 * window, *shape)
    kept = torch.rand(shape, generator=generator) < 0.6
    best = torch.full((count,), -1)
    if count > 0:
        best = ops_reference.logits_statistics(logits.to(dtype), mask_token)[0]
    chosen = present.clone()
    chosen[scored] = torch.where(masked[scored], best[row_of[scored]], present[scored])
    state = StarrState(
        ring=torch.rand((*shape, window), generator=generator),
        seen=seen,
        run=seen + integers(0, 3, *shape),
        candidate=torch.where(kept, chosen, -1),
        revoked=torch.rand(shape, generator=generator) < 0.2,
    )
    return Block(
        logits=logits.to(dtype),
        row_of=row_of,
        present=present,
        masked=masked,
        num_left=integers(0, 12, rows),
        state=state,
        rule=random_rule(generator),
    )


def check_decision(
    got: StarrDecision, expected: StarrDecision, confidence: Tensor, rule: StarrRule
) -> None:
    """``got`` is ``expected`` up to rounding; ``confidence`` is what both were given."""
    for name in ("threshold", "variance", "deviance", "stability"):
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=1e-5, atol=NEAR, msg=name
        )
    near = (confidence - expected.threshold).abs() < NEAR
    assert torch.equal(got.unmask | near, expected.unmask | near)
    near = (confidence - rule.revoke_below).abs() < NEAR
    assert torch.equal(got.revoke | near, expected.revoke | near)
    for name in ("seen", "run", "revoked"):
        mine, true = getattr(got.state, name), getattr(expected.state, name)
        assert torch.equal(torch.where(near, true, mine), true), name
    assert torch.equal(got.state.candidate, expected.state.candidate)
    torch.testing.assert_close(got.state.ring, expected.state.ring, rtol=1e-5, atol=NEAR)


def check_scores(got: StarrScores, expected: StarrScores) -> None:
    assert torch.equal(got.candidates, expected.candidates)
    assert torch.equal(got.logit, expected.logit)
    for name in ("confidence", "top1", "top2", "entropy"):
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=1e-5, atol=1e-6, msg=name
        )


def check_step(device: torch.device, block: Block, logit_signal: bool) -> None:
    """``starr_step`` against its reference: the scores, then the decision on the same scores."""
    block = block.to(device)
    scores, decision = ops.starr_step(*block.step_arguments, logit_signal=logit_signal)
    expected, _ = ops_reference.starr_step(*block.step_arguments, logit_signal=logit_signal)
    check_scores(scores, expected)
    signal = scores.logit if logit_signal else None
    check_decision(
        decision,
        ops_reference.starr_decide(
            scores.candidates, scores.confidence, block.masked, block.num_left,
            block.state, block.rule, signal=signal,
        ),
        scores.confidence,
        block.rule,
    )  # fmt: skip


def check_decide(device: torch.device, block: Block, *, with_signal: bool, at_odds: bool) -> None:
    """``starr_decide`` against its reference, on scores that no softmax gave."""
    generator = torch.Generator().manual_seed(1)
    shape = block.masked.shape
    # Hundredths, so that confidences tie; one position without a number.
    confidence = torch.randint(0, 101, shape, generator=generator) / 100
    if confidence.numel() > 5:
        confidence.view(-1)[5] = torch.nan
    block = block.to(device)
    extras = {
        "signal": torch.randn(shape, generator=generator).to(device) if with_signal else None,
        "deviance": torch.rand(shape, generator=generator).to(device) if at_odds else None,
    }
    arguments = (
        *(block.state.candidate.clamp_min(0), confidence.to(device), block.masked),
        *(block.num_left, block.state, block.rule),
    )
    got, expected = (op.starr_decide(*arguments, **extras) for op in (ops, ops_reference))
    numbers = confidence.to(device)
    for name in ("threshold", "variance", "deviance", "stability"):
        torch.testing.assert_close(
            *(getattr(d, name) for d in (got, expected)), rtol=1e-5, atol=NEAR, equal_nan=True
        )
    near = (numbers - expected.threshold).abs() < NEAR
    assert torch.equal(got.unmask | near, expected.unmask | near)
    assert not (got.unmask | got.revoke)[numbers.isnan()].any()


def check_registration(device: torch.device, op: str, checks: str = "ALL") -> None:
    """Schema, no mutated or aliased arguments, fake implementation and compilation."""
    block = random_block(2, rows=2, length=5).to(device)
    rule = [float(number) for number in block.rule]
    confidence = torch.rand(2, 5, device=device)
    arguments = {
        "starr_decide": (
            *(block.present, confidence, None, confidence, block.masked),
            *(block.num_left, *block.state, rule),
        ),
        "starr_step": (
            *(block.logits, MASK_TOKEN, block.row_of, block.present, block.masked),
            *(block.num_left, *block.state, rule, True),
        ),
    }[op]
    results = torch.library.opcheck(
        getattr(torch.ops.starr_engine, op).default,
        arguments,
        test_utils=checks,
        raise_exception=True,
    )
    assert set(results.values()) == {"SUCCESS"}
