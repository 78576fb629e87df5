"""Gumbel noise: what it is hashed from, how it is distributed, and the op that draws with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from starr_engine import ops
from starr_engine.decoding.noise import Noise, drawn_columns, drawn_rows, row_keys
from starr_engine.decoding.scores import score_rows
from starr_engine.ops_reference import gumbel
from starr_engine.splitmix import WEYL, mix
from tests.helpers import gumbel_cases

CPU = torch.device("cpu")


def test_the_generator_is_splitmix64() -> None:
    # The first numbers of its C version with this seed.
    states = 1234567 + WEYL * torch.arange(1, 6)
    assert [value % 2**64 for value in mix(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_every_seed_step_and_place_has_a_key_of_its_own() -> None:
    places = np.arange(64)
    seeds = (0, 1, 5, 2**32 + 5, 2**63 - 1)
    found = [row_keys(seed, step, places) for seed in seeds for step in range(8)]
    assert len(np.unique(np.concatenate(found))) == 5 * 8 * 64
    together = row_keys(np.repeat(seeds, 64), np.full(5 * 64, 3), np.tile(places, 5))
    assert together.tolist() == np.concatenate([row_keys(s, 3, places) for s in seeds]).tolist()
    assert row_keys(3, 2, np.array([4, 1])).tolist() == row_keys(3, 2, places)[[4, 1]].tolist()


def test_the_noise_is_gumbel_distributed_and_of_no_row_as_of_another() -> None:
    noise = gumbel(torch.from_numpy(row_keys(0, 0, np.arange(400))), 500)
    assert noise.isfinite().all()
    ordered = noise.flatten().sort().values
    ranks = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    distance = (torch.exp(-torch.exp(-ordered)) - ranks).abs().max()
    assert distance < 1.95 / math.sqrt(len(ordered))  # Kolmogorov and Smirnov, 99.9 %
    for each in (noise, noise.t()):
        correlations = torch.corrcoef(each).fill_diagonal_(0)
        assert correlations.abs().max() < 6 / math.sqrt(each.shape[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_by_their_probabilities(temperature: float) -> None:
    logits = torch.tensor([[1.0, -0.5, 0.0, 2.0, 7.0]])
    count = 40_000
    keys = torch.from_numpy(row_keys(7, 0, np.arange(count)))
    rows = torch.zeros(count, dtype=torch.int64)
    options = gumbel_cases.whole(torch.full((count,), temperature))
    tokens = ops.gumbel_argmax(logits, rows, keys, options, 4)
    expected = count * (logits[0, :4].double() / temperature).softmax(0)
    chi_square = ((tokens.bincount(minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # its 99.9th percentile with 3 degrees of freedom


@pytest.mark.parametrize("forbidden", gumbel_cases.FORBIDDEN)
@pytest.mark.parametrize("dtype", gumbel_cases.DTYPES)
@pytest.mark.parametrize("shape", gumbel_cases.SHAPES)
def test_the_op_draws_what_the_reference_draws(
    shape: tuple[int, int], dtype: torch.dtype, forbidden: int
) -> None:
    gumbel_cases.check_shape(CPU, shape, dtype, forbidden)


@pytest.mark.parametrize("name", gumbel_cases.TRUNCATIONS)
@pytest.mark.parametrize("dtype", gumbel_cases.DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (6, 15), (30, 1025), (1, 126_464)])
def test_the_op_cuts_off_what_the_reference_cuts_off(
    shape: tuple[int, int], dtype: torch.dtype, name: str
) -> None:
    gumbel_cases.check_truncation(CPU, shape, dtype, name)


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=8),
    st.sampled_from([0.1, 0.35, 0.6, 0.85, 0.99, 1.0]),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.integers(0, 2**62),
)
def test_small_rows_of_many_equals(
    row: list[int], top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    logits = torch.tensor([row], dtype=torch.float32) * math.log(2)
    at = torch.zeros(20, dtype=torch.int64)
    options = gumbel_cases.whole(torch.full((20,), 1.3))
    options[:, 1:] = torch.tensor([top_p, float(top_k), min_p])
    gumbel_cases.check(logits, at, gumbel_cases.keys(20, seed), options, -1)


def test_no_token_is_lost_where_the_noise_alone_decides() -> None:
    gumbel_cases.check_flat_rows(CPU)


def test_odd_rows_rows_apart_and_no_rows() -> None:
    gumbel_cases.check_odd_rows(CPU)
    gumbel_cases.check_rows_apart(CPU)
    gumbel_cases.check_no_draws(CPU)


def test_the_op_is_registered_as_torch_expects() -> None:
    gumbel_cases.check_registration(CPU)


def test_draws_do_not_depend_on_the_number_of_threads() -> None:
    logits = torch.randn((64, 3000), generator=torch.Generator().manual_seed(0))
    arguments = (torch.arange(64), gumbel_cases.keys(64), gumbel_cases.whole(torch.ones(64)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.gumbel_argmax(logits, *arguments)
        torch.set_num_threads(4)
        assert torch.equal(ops.gumbel_argmax(logits, *arguments), alone)
    finally:
        torch.set_num_threads(before)


ROWS = torch.tensor([0, 1])
OPTIONS = gumbel_cases.whole(torch.ones(2))
REFUSED: dict[str, Callable[[], Tensor]] = {
    r"rows must lie in \[0, 2\), got 2": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), torch.tensor([0, 2]), ROWS, OPTIONS
    ),
    r"of one length D, options \[D, 4\]; keys is not": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), ROWS, ROWS[:1], OPTIONS
    ),
    "; options is not": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), ROWS, ROWS, OPTIONS[:, :3].contiguous()
    ),
    "rows must be Long, got Int": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), ROWS.int(), ROWS, OPTIONS
    ),
    "options must be Double, got Float": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), ROWS, ROWS, OPTIONS.float()
    ),
    "forbidden_token must be -1": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3), ROWS, ROWS, OPTIONS, 3
    ),
    "logits must be float32 or bfloat16, got Half": lambda: ops.gumbel_argmax(
        torch.zeros(2, 3).half(), ROWS, ROWS, OPTIONS
    ),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_wrong_arguments_are_refused(problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem):
        REFUSED[problem]()


def test_rows_with_and_without_noise_and_truncation_are_drawn_side_by_side() -> None:
    logits = torch.randn((9, 40), generator=torch.Generator().manual_seed(1))
    whole = Noise(rows=slice(0, 3), keys=row_keys(1, 0, np.arange(3)), temperature=2.0)
    cut = Noise(rows=slice(5, 8), keys=row_keys(2, 0, np.arange(3)), temperature=2.0, top_k=3)
    assert [column.size for column in drawn_columns([whole, cut])] == [6, 6, 24]
    assert [column.size for column in drawn_columns([])] == [0, 0, 0]
    columns = [torch.from_numpy(column).flatten() for column in drawn_columns([whole, cut])]
    drawn = drawn_rows(*columns)
    assert drawn.options.tolist() == [[2, 1, 0, 0]] * 3 + [[2, 1, 3, 0]] * 3
    present = torch.full((9,), 39)
    scores = score_rows(logits, present, 39, [whole, cut], drawn)
    alone = [
        score_rows(logits[each.rows], present[:3], 39, [_first(each)]) for each in (whole, cut)
    ]
    assert scores.candidates[0:3].tolist() == alone[0].candidates.tolist()
    assert scores.candidates[5:8].tolist() == alone[1].candidates.tolist()
    allowed = logits[:, :39]
    assert scores.candidates[[3, 4, 8]].tolist() == allowed[[3, 4, 8]].argmax(1).tolist()
    best = allowed[5:8].topk(3).indices
    assert (scores.candidates[5:8, None] == best).any(1).all()
    assert scores.candidates[:3].tolist() != allowed[:3].argmax(1).tolist()


def _first(draw: Noise) -> Noise:
    """The same where its rows are the first."""
    return Noise(rows=slice(0, 3), keys=draw.keys, temperature=draw.temperature, top_k=draw.top_k)
