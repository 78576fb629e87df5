"""Rows pass through their own experts, whatever else is in the batch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor

from starr_engine.layers.experts import Experts, grouped_linear, grouped_mm_obstacle
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.layers.places import module_places
from starr_engine.layers.routing import SoftmaxRouter
from tests.helpers.devices import DEVICES
from tests.helpers.moe_reference import fill, mix

NUM_EXPERTS, SIZE, INNER_SIZE = 8, 32, 24


def make(dtype: torch.dtype, size: int = SIZE, inner_size: int = INNER_SIZE) -> Experts:
    """Experts with drawn parameters."""
    experts = Experts(NUM_EXPERTS, size, inner_size)
    fill(experts)
    return experts.to(dtype)


def draw(num_rows: int, num_chosen: int, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, and distinct experts and weights of each."""
    generator = torch.Generator().manual_seed(num_rows)
    rows = torch.randn((num_rows, size), generator=generator)
    scores = torch.rand((num_rows, NUM_EXPERTS), generator=generator)
    weights, expert_ids = scores.topk(num_chosen)
    return rows, expert_ids, weights


@pytest.mark.parametrize(("num_rows", "num_chosen"), [(0, 2), (1, 1), (1, 8), (13, 3), (50, 2)])
def test_rows_get_the_weighted_sum_of_their_experts(num_rows: int, num_chosen: int) -> None:
    experts = make(torch.float32)
    rows, expert_ids, weights = draw(num_rows, num_chosen)
    out = experts(rows, expert_ids, weights)
    assert out.dtype == torch.float32
    expected = mix(experts, rows, expert_ids, weights)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_experts_without_rows_and_all_rows_at_one_expert() -> None:
    experts = make(torch.float32)
    rows, _, weights = draw(9, 1)
    for expert in (0, NUM_EXPERTS - 1):
        expert_ids = torch.full((9, 1), expert)
        expected = mix(experts, rows, expert_ids, weights)
        out = experts(rows, expert_ids, weights)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_rows_are_weighted_and_summed_in_float32(dtype: torch.dtype, device: str) -> None:
    experts = make(dtype)
    rows, expert_ids, weights = draw(21, 4)
    rows = rows.to(dtype)
    made = copy.deepcopy(experts).to(device)
    out = made(rows.to(device), expert_ids.to(device), weights.to(device)).cpu()
    assert out.dtype == dtype
    expected = mix(experts, rows, expert_ids, weights)
    # Two roundings to the dtype inside, and one at the end.
    torch.testing.assert_close(
        out.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps * expected.abs().max()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_rows_change_a_row_by_no_more_than_rounding(dtype: torch.dtype) -> None:
    experts = make(dtype)
    rows, expert_ids, weights = draw(64, 3)
    rows = rows.to(dtype)
    among_all = experts(rows, expert_ids, weights)
    for some in ([5], [63, 0], list(range(10, 30))):
        alone = experts(rows[some], expert_ids[some], weights[some])
        bound = 2 * torch.finfo(dtype).eps * among_all.abs().max()
        torch.testing.assert_close(alone, among_all[some], rtol=0, atol=bound)


def test_the_order_of_the_rows_does_not_matter() -> None:
    experts = make(torch.float32)
    rows, expert_ids, weights = draw(40, 3)
    turned = torch.arange(39, -1, -1)
    out = experts(rows[turned], expert_ids[turned], weights[turned])
    # The groups have the same sizes, so that even the rounding is the same.
    assert torch.equal(out[turned], experts(rows, expert_ids, weights))


@pytest.mark.parametrize(
    ("dtype", "size", "reason"),
    [
        (torch.float64, 32, "does not take torch.float64"),
        (torch.float32, 30, "multiple of 16 bytes, got 30 values of torch.float32"),
        (torch.bfloat16, 36, "multiple of 16 bytes, got 36 values of torch.bfloat16"),
    ],
)
def test_what_torch_cannot_group_is_looped_over_and_said(
    dtype: torch.dtype, size: int, reason: str
) -> None:
    experts = make(dtype, size)
    rows, expert_ids, weights = draw(17, 3, size)
    rows = rows.to(dtype)
    with pytest.warns(UserWarning, match=f"one after the other.*{reason}"):
        out = experts(rows, expert_ids, weights)
    expected = mix(experts, rows, expert_ids, weights)
    bound = max(1e-5, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(
        out.double(), expected, rtol=bound, atol=bound * expected.abs().max()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_groups_what_nothing_stands_against(dtype: torch.dtype) -> None:
    # The smallest rows allowed, and an output size that torch has to pad.
    weight = torch.ones((3, 5, 16 // dtype.itemsize), dtype=dtype)
    assert grouped_mm_obstacle(weight) is None
    rows = torch.arange(4).to(dtype).unsqueeze(1).expand(-1, weight.shape[-1]).contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = grouped_linear(rows, weight, torch.tensor([1, 1, 4], dtype=torch.int32))
    assert torch.equal(out, (rows.sum(1, keepdim=True)).expand(-1, 5))


def test_a_published_tensor_fills_its_part_of_the_stack() -> None:
    experts = make(torch.float32)
    places = experts.published_places()
    assert len(places) == 3 * NUM_EXPERTS
    one = GatedFeedForward(SIZE, INNER_SIZE)
    parameters = dict(experts.named_parameters())
    for name, parameter in one.named_parameters():
        place = places[f"5.{name}"]
        parameter.data = place.of(parameters[place.parameter].data)
    rows = draw(6, 1)[0]
    out = experts(rows, torch.full((6, 1), 5), torch.ones((6, 1)))
    torch.testing.assert_close(out, one(rows))


def test_the_places_cover_the_parameters_exactly() -> None:
    experts = make(torch.float32)
    for parameter in experts.parameters():
        parameter.data.zero_()
    for place in experts.published_places().values():
        place.of(getattr(experts, place.parameter).data).add_(1)
    assert all(bool((parameter == 1).all()) for parameter in experts.parameters())


def test_shared_experts_serve_every_row() -> None:
    gate = SoftmaxRouter(SIZE, NUM_EXPERTS, 2, renormalise=True)
    mixture = MoEFeedForward(gate, make(torch.float32), GatedFeedForward(SIZE, 16))
    fill(mixture)
    rows = draw(11, 1)[0]
    expert_ids, weights = gate(rows)
    expected = mix(mixture.experts, rows, expert_ids, weights)
    assert mixture.shared_experts is not None
    expected += mixture.shared_experts(rows).double()
    torch.testing.assert_close(mixture(rows).double(), expected, rtol=1e-5, atol=1e-5)
    assert sorted(module_places(mixture))[:4] == [
        "experts.0.down_proj.weight",
        "experts.0.gate_proj.weight",
        "experts.0.up_proj.weight",
        "experts.1.down_proj.weight",
    ]
    assert {"gate.weight", "shared_experts.up_proj.weight"} <= module_places(mixture).keys()
