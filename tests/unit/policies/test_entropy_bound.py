"""entropy_bound by hand, and against transformers' sampler and stopping rule on random logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
    StableAndConfidentStoppingCriteria,
)

from starr_engine.decoding.base import BlockView, Decision, State
from starr_engine.decoding.policies.entropy_bound import EntropyBoundPolicy
from starr_engine.errors import RequestError

LENGTH, VOCABULARY = 12, 31
CPU = torch.device("cpu")


def look(logits: Tensor, tokens: Tensor, *, step: int, seed: int = 0) -> BlockView:
    """Blocks whose ``tokens`` [n, L] are -1 at masks; the mask's column is the last one."""
    shown = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], dim=-1)
    odds = shown.softmax(-1)
    masked, best = tokens < 0, shown.argmax(-1)
    rows = len(tokens)
    present = torch.where(masked, best, tokens)
    return BlockView(
        candidates=present,
        confidence=odds.gather(2, present[..., None])[..., 0],
        top1=odds.amax(-1),
        top2=odds.topk(2).values[..., 1],
        entropy=torch.special.entr(odds).sum(-1),
        masked=masked,
        step=torch.full((rows,), step),
        num_left=torch.full((rows,), 5),
        progress=torch.zeros(rows),
        seed=torch.arange(rows) + seed,
        proposals=best,
        proposal_confidence=odds.amax(-1),
        logits=shown,
        sampling_logits=shown,
    )


def after(decision: Decision, view: BlockView, tokens: Tensor) -> Tensor:
    """What stands in the block then, -1 at masks."""
    put = decision.tokens_put(view)
    assert decision.edit is not None
    assert decision.revoke is not None
    tokens = torch.where(decision.unmask | decision.edit, put, tokens)
    return torch.where(decision.revoke, -1, tokens)


def sequence(seed: int, steps: int) -> list[Tensor]:
    """Logits [2, LENGTH, VOCABULARY] that come to rest, the second row's later."""
    generator = torch.Generator().manual_seed(seed)
    goal = 6 * torch.randn(2, LENGTH, VOCABULARY, generator=generator)
    noise = [4 * torch.randn(goal.shape, generator=generator) for _ in range(steps)]
    fade = torch.tensor([0.5, 0.7])[:, None, None]
    return [goal * (1 + 0.2 * k) + noise[k] * fade**k for k in range(steps)]


@pytest.mark.parametrize(
    ("bound", "stability", "confidence"),
    [(0.1, 1, 0.3), (3.0, 2, 0.4), (9.0, 3, 0.5), (1.0, 0, 0.2)],
)
def test_accepted_positions_and_the_end_are_those_of_transformers(
    bound: float, stability: int, confidence: float
) -> None:
    steps = 14
    policy = EntropyBoundPolicy(
        entropy_bound=bound, max_steps=steps, stability_steps=stability,
        confidence_threshold=confidence,
    )  # fmt: skip
    ends = set()
    for seed in range(4):
        scale = LinearTemperatureScheduleLogitsProcessor(0.4, 0.8, steps)
        stop = StableAndConfidentStoppingCriteria(stability, confidence)
        tokens = torch.full((2, LENGTH), -1)
        state = policy.init_state(2, LENGTH, CPU)
        open_rows = torch.ones(2, dtype=torch.bool)
        for step, logits in enumerate(sequence(seed, steps)):
            sampler = EntropyBoundSampler(
                EntropyBoundSamplerConfig(bound), LENGTH, VOCABULARY, steps
            )
            assert policy.temperature(step) == pytest.approx(0.4 + 0.4 * (steps - step) / steps)
            scaled = scale(torch.empty(0, dtype=torch.long), logits, cur_step=steps - step)
            marks = torch.full((2, LENGTH), 1)
            accepted = sampler.accept_canvas(torch.zeros_like(marks), marks, scaled, step) == 1
            finished = stop(scaled.argmax(-1), scaled) | (step == steps - 1)

            view = look(logits, tokens, step=step)
            decision, state = policy.decide(view, state)
            assert decision.hold is not None
            assert torch.equal(decision.hold, ~finished)
            tokens = after(decision, view, tokens)
            held = torch.where(finished[:, None], torch.ones_like(accepted), accepted)
            assert torch.equal(tokens >= 0, held)
            assert torch.equal(tokens[finished], logits.argmax(-1)[finished])
            ends |= {step} if bool((finished & open_rows).any()) else set()
            open_rows &= ~finished
            if not open_rows.any():
                break
    assert len(ends) > 1  # the rule ended blocks, at several steps


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    odds = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 2000
    logits = (odds.log() * 0.8).expand(rows, LENGTH, 4)  # the first step divides by .8
    policy = EntropyBoundPolicy(entropy_bound=100.0)
    view = look(logits, torch.full((rows, LENGTH), -1), step=0)
    decision, _ = policy.decide(view, policy.init_state(rows, LENGTH, CPU))
    assert decision.unmask.all()
    assert decision.tokens is not None
    found = torch.bincount(decision.tokens.flatten(), minlength=4) / decision.tokens.numel()
    torch.testing.assert_close(found, odds, rtol=0, atol=0.015)
    again, _ = policy.decide(
        replace(view, step=view.step + 1), policy.init_state(rows, LENGTH, CPU)
    )
    assert again.tokens is not None
    assert float((again.tokens == decision.tokens).float().mean()) < 0.6


def decide(logits: list[list[float]], tokens: list[int], policy: EntropyBoundPolicy, step: int
           ) -> tuple[Decision, State, BlockView]:  # fmt: skip
    view = look(torch.tensor([logits]), torch.tensor([tokens]), step=step)
    return *policy.decide(view, policy.init_state(1, len(tokens), CPU)), view


def test_a_position_that_is_not_accepted_again_is_taken_back() -> None:
    sure, unsure = [30.0, 0.0, 0.0], [1.0, 1.0, 1.0]  # entropies 0 and log 3
    policy = EntropyBoundPolicy(entropy_bound=0.5)
    decision, _, view = decide([unsure, sure, unsure, sure], [0, 2, -1, -1], policy, step=3)
    # Of the unsure ones the leftmost alone keeps the bound: it holds a token and draws anew.
    assert after(decision, view, view.candidates.masked_fill(view.masked, -1))[0, 2] == -1
    assert decision.unmask.tolist() == [[False, False, False, True]]
    assert decision.revoke is not None and not decision.revoke.any()
    assert decision.edit is not None and decision.edit.tolist()[0][1]  # 2 gives way to 0
    decision, _, _ = decide([unsure, unsure, sure], [1, 1, -1], policy, step=3)
    assert decision.revoke is not None
    assert decision.revoke.tolist() == [[False, True, False]]


def test_the_last_step_takes_the_arg_max_everywhere() -> None:
    rows = [[0.0, 1.0, 0.5], [2.0, 1.0, 0.5], [0.0, 0.0, 0.1]]
    policy = EntropyBoundPolicy(entropy_bound=0.0, max_steps=7)
    decision, _, view = decide(rows, [0, -1, -1], policy, step=6)
    assert after(decision, view, torch.tensor([[0, -1, -1]])).tolist() == [[1, 0, 2]]
    assert decision.hold is not None and not decision.hold.any()
    assert policy.step_limit == 7
    assert policy.temperature(6) == policy.temperature(9) == pytest.approx(0.4 + 0.4 / 7)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"entropy_bound": -1.0}, "entropy_bound must be a finite number >= 0"),
        ({"max_steps": 0}, "max_steps must be an integer >= 1"),
        ({"t_min": 0.0}, "t_min must be above 0 and at most t_max"),
        ({"t_min": 0.9}, "t_min must be above 0 and at most t_max"),
        ({"stability_steps": 65}, "stability_steps must be an integer from 0 to 64"),
        ({"confidence_threshold": float("nan")}, "confidence_threshold must be a finite number"),
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        EntropyBoundPolicy(**args)  # type: ignore[arg-type]
