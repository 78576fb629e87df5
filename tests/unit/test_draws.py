"""Random numbers of a row depend on its request, the place and the step, and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.draws import uniform


def view(seeds: list[int], *, step: int = 0, num_left: int = 5, length: int = 64) -> BlockView:
    rows = len(seeds)
    ones = torch.ones(rows, length)
    return BlockView(
        candidates=ones.long(),
        confidence=ones,
        top1=ones,
        top2=ones,
        entropy=ones,
        masked=ones.bool(),
        step=torch.full((rows,), step),
        num_left=torch.full((rows,), num_left),
        progress=torch.zeros(rows),
        seed=torch.tensor(seeds),
    )


def test_numbers_fill_the_unit_interval_evenly() -> None:
    drawn = uniform(view(list(range(400))))
    assert drawn.dtype is torch.float32
    assert ((drawn >= 0) & (drawn < 1)).all()
    shares = torch.histc(drawn, bins=10, min=0.0, max=1.0) / drawn.numel()
    # 25,600 draws: the share of a bin has a standard deviation of .0019.
    assert (shares - 0.1).abs().max() < 0.01


def test_a_row_draws_the_same_alone() -> None:
    seeds = [0, 1, 2**63 - 1]
    together = uniform(view(seeds, step=3))
    alone = torch.cat([uniform(view([seed], step=3)) for seed in seeds])
    assert torch.equal(together, alone)


def test_seed_step_place_and_stream_each_change_every_number() -> None:
    base = uniform(view([7]))

    def share_equal(other: Tensor) -> float:
        return (other == base).float().mean().item()

    assert share_equal(uniform(view([8]))) == 0
    assert share_equal(uniform(view([7], step=1))) == 0
    assert share_equal(uniform(view([7], num_left=69))) == 0
    assert share_equal(uniform(view([7]), stream=1)) == 0


def test_the_next_block_continues_by_place() -> None:
    # Place 5 + 10 of one block is place 15 + 0 of another.
    assert torch.equal(uniform(view([7]))[:, 10:20], uniform(view([7], num_left=15))[:, :10])
