"""What every remasking policy must keep, whoever wrote it.

To hold a policy of your own to it, register it with ``REMASKING_POLICIES.add`` and add a line with
its arguments to ``ARGUMENTS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    RemaskingPolicy,
    State,
)
from starr_engine.decoding.guarantee import (
    MAX_REVOCATIONS_PER_POSITION,
    bound_revocation,
    first_argmax,
    guarantee_progress,
)

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "low_confidence": [{}, {"tokens_per_step": 3}, {"num_steps_per_block": 4}],
    "threshold": [{}, {"threshold": 0.0}, {"threshold": 0.5}, {"threshold": 2.0}],
    "starr": [
        {},
        {"tau_min": 2, "tau_max": 2, "c_fast": 2, "c_slow": 2},
        {"temporal_window": 1, "neighbour_window": 0, "c_slow": 0.1, "tau_min": 0.1},
        {"patience": 1, "relax": 0.2, "restart_on_flip": False},
        {"revoke_below": 0.5, "tau_min": 0.3, "c_slow": 0.2},
        {"revoke_below": 1.0, "tau_min": 0.0, "c_slow": 0.0, "neighbour_window": 40},
        {"signal": "logit", "sigma": 1.0},
        {"deviance": "cosine", "top_k": 3},
        {"signal": "logit", "deviance": "cosine", "revoke_below": 0.2},
    ],
}
CASES = [(name, args) for name, variants in ARGUMENTS.items() for args in variants]
NAMES = tuple(BlockView.__slots__)
ROWS, LENGTH, VOCAB = 7, 9, 6
# See bound_revocation: the bound, and the one decision that may go beyond it.
MAX_STEPS = (2 + MAX_REVOCATIONS_PER_POSITION) * LENGTH

every_policy = pytest.mark.parametrize(
    "policy", [pytest.param(REMASKING_POLICIES.create(n, a), id=f"{n}-{a}") for n, a in CASES]
)
any_seed = pytest.mark.parametrize("seed", range(3))


def init(policy: RemaskingPolicy, rows: int = ROWS) -> State:
    return policy.init_state(rows, LENGTH, torch.device("cpu"))


def shot(
    policy: RemaskingPolicy, tokens: Tensor, step: int, generator: torch.Generator
) -> BlockView:
    """A random step over blocks whose ``tokens`` [ROWS, LENGTH] are -1 at masks.

    Confidences come in tenths, so that they tie, or from logits of few values where the policy
    asks for these; nothing but masks is scored unless asked for.
    """
    masked = tokens < 0
    scored = masked | torch.tensor(policy.scores_unmasked)
    logits = None

    def tenths(shape: tuple[int, ...]) -> Tensor:
        return torch.randint(0, 11, shape, generator=generator) / 10

    shape = (ROWS, LENGTH)
    confidence = torch.where(scored, tenths(shape), 1.0)
    proposed = torch.randint(0, 3, shape, generator=generator)
    top1 = confidence
    top2 = torch.where(scored, torch.minimum(1 - confidence, confidence), 0.0)
    entropy = torch.where(scored, 2 * tenths(shape), 0.0)
    logit = torch.where(scored, 10 * tenths(shape), 0.0)
    if policy.needs_logits:
        levels = torch.randint(0, 8, (*shape, VOCAB), generator=generator).float()
        logits = torch.where(scored[..., None], levels, 0.0)
        logits[..., -1] = -torch.inf  # the mask token
        probabilities = logits.softmax(-1)
        top = probabilities.topk(2).values
        proposed = first_argmax(logits.flatten(0, 1)).view(shape)
        present = torch.where(masked, proposed, tokens)
        taken = probabilities.gather(2, present[..., None])[..., 0]
        confidence = torch.where(scored, taken, 1.0)
        logit = torch.where(scored, logits.gather(2, present[..., None])[..., 0], 0.0)
        top1 = torch.where(scored, top[..., 0], 1.0)
        top2 = torch.where(scored, top[..., 1], 0.0)
        entropy = torch.where(scored, -torch.xlogy(probabilities, probabilities).sum(-1), 0.0)
    return BlockView(
        candidates=torch.where(masked, proposed, tokens),
        confidence=confidence,
        top1=top1,
        top2=top2,
        entropy=entropy,
        masked=masked,
        step=torch.full((ROWS,), step),
        num_left=torch.arange(ROWS) * 2 + 1,
        progress=(~masked).float().mean(1) / 2,
        seed=torch.arange(ROWS) * 2**61,
        logit=logit,
        logits=logits,
        sampling_logits=logits,
    )


def play(policy: RemaskingPolicy, seed: int) -> Iterator[tuple[BlockView, State, Decision, State]]:
    """Decode random blocks to their end: each step's view and state, and what they gave."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((ROWS, LENGTH), -1)
    state = init(policy)
    num_revoked = torch.zeros(ROWS, dtype=torch.int64)
    for step in range(MAX_STEPS):
        view = shot(policy, tokens, step, generator)
        decision, after = policy.decide(view, state)
        yield view, state, decision, after
        state = after
        full = guarantee_progress(view, bound_revocation(decision, num_revoked.tolist()))
        put = view.candidates if full.tokens is None else full.tokens
        tokens = torch.where(full.unmask, put, tokens)
        if full.revoke is not None:
            tokens = torch.where(full.revoke, -1, tokens)
            num_revoked += full.revoke.sum(1)
        if not (tokens < 0).any():
            return
    raise AssertionError(f"blocks of {LENGTH} positions are not done after {MAX_STEPS} steps")


def rows_of(view: BlockView, rows: Tensor) -> BlockView:
    return BlockView(
        **{
            name: None if (values := getattr(view, name)) is None else values[rows]
            for name in NAMES
        }
    )


def assert_rows_equal(
    got: tuple[Decision, State], expected: tuple[Decision, State], rows: Tensor
) -> None:
    """``got`` is what ``expected`` says for ``rows``."""
    assert torch.equal(got[0].unmask, expected[0].unmask[rows])
    assert (got[0].revoke is None) == (expected[0].revoke is None)
    if got[0].revoke is not None and expected[0].revoke is not None:
        assert torch.equal(got[0].revoke, expected[0].revoke[rows])
    assert (got[0].tokens is None) == (expected[0].tokens is None)
    if got[0].tokens is not None and expected[0].tokens is not None:
        assert torch.equal(got[0].tokens, expected[0].tokens[rows])
    assert got[1].keys() == expected[1].keys()
    for name, values in got[1].items():
        assert torch.equal(values, expected[1][name][rows]), name


def test_every_registered_policy_is_held_to_this() -> None:
    assert set(ARGUMENTS) == set(REMASKING_POLICIES)


@every_policy
@any_seed
def test_every_block_ends_through_the_progress_guarantee(
    policy: RemaskingPolicy, seed: int
) -> None:
    steps = sum(1 for _ in play(policy, seed))
    if not policy.scores_unmasked:
        assert steps <= LENGTH


@every_policy
@any_seed
def test_masks_alone_are_unmasked_and_tokens_alone_revoked(
    policy: RemaskingPolicy, seed: int
) -> None:
    for view, _, decision, _ in play(policy, seed):
        assert decision.unmask.dtype is torch.bool
        assert not (decision.unmask & ~view.masked).any()
        if decision.revoke is not None:
            assert decision.revoke.dtype is torch.bool
            assert not (decision.revoke & view.masked).any()


@every_policy
@any_seed
def test_nothing_that_was_given_is_changed_and_asking_twice_gives_the_same(
    policy: RemaskingPolicy, seed: int
) -> None:
    hash_before = hash(policy)
    for view, state, decision, after in play(policy, seed):
        given = [name for name in NAMES if getattr(view, name) is not None]
        kept = {name: getattr(view, name).clone() for name in given}
        kept_state = {name: values.clone() for name, values in state.items()}
        again = policy.decide(view, state)
        assert_rows_equal(again, (decision, after), torch.arange(ROWS))
        assert all(torch.equal(getattr(view, name), values) for name, values in kept.items())
        assert all(torch.equal(state[name], values) for name, values in kept_state.items())
    assert hash(policy) == hash_before


@every_policy
@any_seed
def test_rows_do_not_see_each_other(policy: RemaskingPolicy, seed: int) -> None:
    for view, state, decision, after in play(policy, seed):
        for row in range(ROWS):
            only = torch.tensor([row])
            alone = policy.decide(rows_of(view, only), {n: v[only] for n, v in state.items()})
            assert_rows_equal(alone, (decision, after), only)


@every_policy
@any_seed
def test_the_order_of_the_rows_does_not_matter(policy: RemaskingPolicy, seed: int) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    for view, state, decision, after in play(policy, seed):
        shuffled = policy.decide(rows_of(view, order), {n: v[order] for n, v in state.items()})
        assert_rows_equal(shuffled, (decision, after), order)


@every_policy
def test_the_state_has_one_row_per_block(policy: RemaskingPolicy) -> None:
    for rows in (1, 4):
        assert all(len(values) == rows for values in init(policy, rows).values())


@every_policy
def test_of_equal_masks_the_leftmost_goes_first(policy: RemaskingPolicy) -> None:
    generator = torch.Generator().manual_seed(0)
    view = shot(policy, torch.full((ROWS, LENGTH), -1), 0, generator)
    # Only their places tell the masks apart, and what is settled lies to their left.
    level = torch.full((ROWS, LENGTH), 0.25)
    view = replace(view, confidence=level, top1=level, top2=level, entropy=level)
    decision, _ = policy.decide(view, init(policy))
    chosen = guarantee_progress(view, decision).unmask.int()
    count = chosen.sum(1)
    assert (count >= 1).all()
    expected = torch.arange(LENGTH) < count[:, None]
    assert torch.equal(chosen.bool(), expected)
