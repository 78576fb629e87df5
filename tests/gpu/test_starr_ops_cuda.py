"""The cases of tests/unit/test_starr_ops.py on CUDA, and with its kernels on a simulated GPU."""

import pytest
import torch

from starr_engine import ops
from tests.helpers import starr_cases
from tests.helpers.starr_cases import random_block

CUDA = torch.device("cuda")
# Below, at and above a warp, and more positions than the threads of a block.
LENGTHS = (1, 7, 31, 32, 33, 64, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("logit_signal", [False, True])
def test_a_step_is_that_of_the_reference(
    device: torch.device, length: int, dtype: torch.dtype, logit_signal: bool
) -> None:
    # The simulated GPU takes milliseconds for each position that has logits: two short rows.
    seeds, longest = (range(10), 300) if device.type == "cuda" else ([1], 50)
    for seed in seeds:
        block = random_block(seed, rows=1 + seed % 5, length=min(length, longest), dtype=dtype)
        starr_cases.check_step(device, block, logit_signal)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("at_odds", [False, True])
def test_a_decision_is_that_of_the_reference(
    device: torch.device, length: int, at_odds: bool
) -> None:
    for seed in range(10 if device.type == "cuda" else 4):
        block = random_block(seed, rows=1 + seed % 5, length=length)
        starr_cases.check_decide(device, block, with_signal=at_odds, at_odds=at_odds)


def test_no_row_and_no_position_are_no_work(device: torch.device) -> None:
    for rows, length in ((0, 8), (2, 0)):
        block = random_block(0, rows=rows, length=length).to(device)
        scores, decision = ops.starr_step(*block.step_arguments)
        assert scores.candidates.shape == decision.unmask.shape == (rows, length)


@pytest.mark.parametrize("op", ["starr_decide", "starr_step"])
def test_ops_are_registered_as_torch_expects(device: torch.device, op: str) -> None:
    starr_cases.check_registration(device, op, "ALL" if device.type == "cuda" else "test_schema")


@pytest.mark.gpu
def test_a_step_runs_in_a_cuda_graph() -> None:
    block = random_block(4, rows=3, length=32).to(CUDA)
    ops.starr_step(*block.step_arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores, decision = ops.starr_step(*block.step_arguments)
    block.logits.copy_(block.logits.flip(0))
    graph.replay()
    expected, expected_decision = ops.starr_step(*block.step_arguments)
    assert all(map(torch.equal, scores, expected))
    assert torch.equal(decision.unmask, expected_decision.unmask)
    assert torch.equal(decision.threshold, expected_decision.threshold)
