"""Top-k, top-p and min-p against the ones of transformers, and what Gumbel-max does with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from starr_engine.decoding.noise import Noise, row_keys
from starr_engine.decoding.scores import score_rows
from starr_engine.ops_reference import truncate

MASK = 3
NO_IDS = torch.zeros((1, 1), dtype=torch.int64)


def noise(rows: int = 0, *, temperature: float = 1.0, seed: int = 0, **truncation) -> Noise:
    return Noise(
        rows=slice(0, rows),
        keys=row_keys(seed, 0, np.arange(rows)),
        temperature=temperature,
        **truncation,
    )


OFF = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def kept(logits: Tensor, **options) -> list[list[int]]:
    left = truncate(logits.double(), **(OFF | options))
    assert torch.equal(left[left > -torch.inf], logits.double()[left > -torch.inf])
    return [torch.nonzero(row > -torch.inf)[:, 0].tolist() for row in left]


def test_worked_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert kept(logits) == [[0, 1, 2, 3]]
    assert kept(logits, top_k=1) == [[0]]
    assert kept(logits, top_k=2) == [[0, 1]]
    assert kept(logits, top_k=3) == [[0, 1, 2, 3]]  # the fourth equals the third
    assert kept(logits, top_p=0.4) == [[0]]
    assert kept(logits, top_p=0.6) == [[0, 1]]
    assert kept(logits, top_p=0.8) == [[0, 1, 2]]  # of equals the lowest id
    assert kept(logits, top_p=0.9) == [[0, 1, 2, 3]]
    assert kept(logits, min_p=0.4) == [[0, 1]]
    assert kept(logits, min_p=0.2) == [[0, 1, 2, 3]]
    assert kept(logits, min_p=1.0) == [[0]]


def test_top_p_holds_its_mass_after_min_p_and_top_k() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert kept(logits, top_p=0.55) == [[0, 1]]
    # Of the two that top-k leaves the first alone has 4/7 of the mass.
    assert kept(logits, top_p=0.55, top_k=2) == [[0]]
    assert kept(logits, top_p=0.55, min_p=0.7) == [[0]]


def test_truncation_sees_the_distribution_at_the_temperature() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert kept(logits, min_p=0.5) == [[0, 1]]
    assert kept(logits, min_p=0.5, temperature=0.5) == [[0]]
    assert kept(logits, min_p=0.5, temperature=2.0) == [[0, 1, 2]]
    assert kept(logits, top_p=0.75) == [[0, 1]]
    assert kept(logits, top_p=0.75, temperature=10.0) == [[0, 1, 2]]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1}, {"top_k": 7}, {"top_p": 0.05}, {"top_p": 0.5}, {"top_p": 0.95},
        {"min_p": 0.01}, {"min_p": 0.3}, {"top_k": 20, "top_p": 0.7, "min_p": 0.02},
    ],
)  # fmt: skip
def test_equals_the_warpers_of_transformers(options: dict, temperature: float) -> None:
    logits = 3 * torch.randn((8, 50), generator=torch.Generator().manual_seed(1)).double()
    expected = logits / temperature
    if "min_p" in options:
        expected = MinPLogitsWarper(options["min_p"])(NO_IDS, expected)
    if "top_k" in options:
        expected = TopKLogitsWarper(options["top_k"])(NO_IDS, expected)
    if "top_p" in options:
        expected = TopPLogitsWarper(options["top_p"])(NO_IDS, expected)
    got = truncate(logits, **(OFF | {"temperature": temperature} | options))
    assert torch.equal(got > -torch.inf, expected > -torch.inf)


rows_of_logits = st.lists(
    st.lists(
        st.sampled_from([-torch.inf, -2.0, 0.0, 0.5, 1.0, 9.0, 400.0]), min_size=6, max_size=6
    ),
    min_size=1,
    max_size=3,
)


@given(
    rows=rows_of_logits,
    top_k=st.integers(0, 8),
    top_p=st.floats(1e-9, 1.0),
    min_p=st.floats(0.0, 1.0),
    temperature=st.floats(0.05, 50.0),
    seed=st.integers(0, 2**62),
)
def test_a_drawn_token_lies_in_the_allowed_set_and_its_confidence_knows_no_truncation(
    rows: list[list[float]],
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    seed: int,
) -> None:
    logits = torch.tensor(rows)
    logits[:, 0] = 0.25  # something is always allowed
    draw = noise(
        len(rows), temperature=temperature, seed=seed, top_k=top_k, top_p=top_p, min_p=min_p
    )
    scores = score_rows(logits, torch.full((len(rows),), MASK), MASK, [draw])
    allowed = logits.double()
    allowed[:, MASK] = -torch.inf
    for row, drawn in enumerate(scores.candidates.tolist()):
        mine = allowed[row].tolist()
        best = max(mine)
        weights = [math.exp((value - best) / temperature) for value in mine]
        assert mine[drawn] > -torch.inf
        assert weights[drawn] >= min_p * (1 - 1e-9)
        assert not top_k or sum(value > mine[drawn] for value in mine) < top_k
        total = sum(weights)
        in_front = sum(weight for weight in weights if weight > weights[drawn]) / total
        # Dropping the tail only makes the mass in front a larger share of what is left.
        assert in_front < top_p + 1e-9
        plain = torch.tensor(mine).softmax(-1)[drawn]
        assert scores.confidence[row].item() == pytest.approx(plain.item(), abs=1e-6)


def test_tokens_that_tie_have_one_confidence_however_large_their_logits() -> None:
    logits = torch.tensor([[-torch.inf, 400.0, 400.0, -torch.inf, -torch.inf, 400.0]])
    drawn = [
        score_rows(logits, torch.tensor([MASK]), MASK, [noise(1, temperature=1.0, seed=seed)])
        for seed in range(20)
    ]
    assert len({scores.candidates.item() for scores in drawn}) == 3
    assert {scores.confidence.item() for scores in drawn} == {torch.tensor(1 / 3).item()}


def test_top_k_of_one_draws_the_arg_max_at_any_temperature() -> None:
    logits = torch.randn((20, 30), generator=torch.Generator().manual_seed(2))
    present = torch.full((20,), MASK)
    greedy = score_rows(logits, present, MASK, [])
    drawn = score_rows(logits, present, MASK, [noise(20, temperature=50.0, top_k=1)])
    assert torch.equal(drawn.candidates, greedy.candidates)
    assert torch.equal(drawn.confidence, greedy.confidence)


def test_truncation_changes_no_draw_that_it_allows() -> None:
    logits = torch.randn((200, 10), generator=torch.Generator().manual_seed(3))
    present = torch.full((200,), MASK)
    free = score_rows(logits, present, MASK, [noise(200)]).candidates
    cut = score_rows(logits, present, MASK, [noise(200, top_k=4)]).candidates
    logits[:, MASK] = -torch.inf
    is_allowed = (logits > logits.gather(1, free[:, None])).sum(1) < 4
    assert 20 < is_allowed.sum() < 180
    assert torch.equal(cut[is_allowed], free[is_allowed])


def test_the_mask_token_takes_no_place_among_the_best_k() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 50.0]])
    scores = score_rows(
        logits, torch.tensor([MASK]), MASK, [noise(1, temperature=9.0, top_k=1, top_p=0.1)]
    )
    assert scores.candidates.tolist() == [2]
