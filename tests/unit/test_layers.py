"""Layers round where published checkpoints were trained to round."""

from __future__ import annotations

import pytest
import torch

from starr_engine.layers.mlp import swiglu
from starr_engine.layers.norm import RMSNorm, WideRMSNorm
from starr_engine.layers.rotary import RotaryEmbedding


def norm(weight: list[float], eps: float = 1e-6, *, bias: list[float] | None = None) -> RMSNorm:
    """A norm with given parameters."""
    made = RMSNorm(len(weight), eps, bias=bias is not None)
    made.weight.data = torch.tensor(weight)
    if made.bias is not None:
        made.bias.data = torch.tensor(bias)
    return made


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    # Mean square of (3, 4) with eps 0.75 is 12.5 + 0.75; its root is 3.64005...
    out = norm([1.0, 2.0], 0.75, bias=[0.5, 0.0])(torch.tensor([[3.0, 4.0]]))
    root = 13.25**0.5
    torch.testing.assert_close(out, torch.tensor([[3 / root + 0.5, 8 / root]]))


def test_rms_norm_of_bfloat16_rows_takes_its_statistics_in_float32() -> None:
    rows = (torch.randn((5, 257), generator=torch.Generator().manual_seed(0)) * 9).bfloat16()
    layer = norm([1.0] * 257).bfloat16()
    wide = rows.float()
    # Rounded once, after the division: any bfloat16 step before it would round twice.
    expected = (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16()
    out = layer(rows)
    assert out.dtype == torch.bfloat16
    # A tie may break differently between a division and a product with the reciprocal root.
    assert (out != expected).float().mean() < 0.01


def test_rms_norm_rounds_the_normalised_row_before_it_applies_the_weight() -> None:
    rows = torch.randn((5, 257), generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = norm([1.37] * 257).bfloat16()
    rounded = norm([1.0] * 257).bfloat16()(rows)
    assert torch.equal(layer(rows), rounded * layer.weight)


def test_rotation_turns_a_pair_by_its_position_times_its_speed() -> None:
    # D = 4: pairs (0, 2) at speed 1 and (1, 3) at speed 100 ** -0.5 = 0.1.
    rotation = RotaryEmbedding(4, 8, 100.0)(torch.tensor([0, 5]), torch.float32)
    heads = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, 3, 4)
    turned = rotation.apply(heads)
    torch.testing.assert_close(turned[0], heads[0])
    angles = torch.tensor([5.0, 0.5])
    expected = torch.cat([angles.cos(), angles.sin()]).expand(3, 4)
    torch.testing.assert_close(turned[1], expected)


def test_some_rows_of_a_rotation_turn_as_they_do_among_all() -> None:
    heads = torch.randn((6, 2, 8), generator=torch.Generator().manual_seed(2))
    rotation = RotaryEmbedding(8, 64, 1e4)(torch.tensor([3, 0, 40, 7, 63, 5]), torch.float32)
    for rows in ([4, 1, 1], []):
        some = torch.tensor(rows, dtype=torch.int64)
        assert torch.equal(rotation.take(some).apply(heads[some]), rotation.apply(heads)[some])


def test_full_precision_rotates_narrow_heads_in_float32_and_rounds_once() -> None:
    heads = torch.randn((16, 2, 32), generator=torch.Generator().manual_seed(1)).bfloat16()
    positions = torch.arange(100, 116)
    full = RotaryEmbedding(32, 128, 1e4)(positions, torch.bfloat16)
    expected = full.apply(heads.float()).bfloat16()
    assert torch.equal(full.apply(heads), expected)

    narrow = RotaryEmbedding(32, 128, 1e4, full_precision=False)(positions, torch.bfloat16)
    assert narrow.cos.dtype == torch.bfloat16
    assert narrow.apply(heads).dtype == torch.bfloat16
    assert not torch.equal(narrow.apply(heads), expected)


def test_the_rotary_table_is_made_even_where_parameters_are_not() -> None:
    with torch.device("meta"):
        table = RotaryEmbedding(8, 16, 1e4)
    assert table.cos.device.type == "cpu"
    assert not table.state_dict()


def test_swiglu_gates_the_second_by_the_silu_of_the_first() -> None:
    gate, up = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([5.0, 3.0, 4.0])
    expected = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(swiglu(gate, up), expected)


DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_in_place_are_the_formula_to_the_bit_and_leave_their_rows_alone(dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = (torch.randn((7, 64), generator=generator) * 5).to(dtype)
    weight, bias = (torch.randn(64, generator=generator).to(dtype) for _ in range(2))
    before, wide = rows.clone(), rows.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    narrow = norm(weight.tolist(), bias=bias.tolist()).to(dtype)
    assert torch.equal(narrow(rows), (wide * scale).to(dtype) * weight + bias)
    layer = WideRMSNorm(64, 1e-6).to(dtype)
    layer.weight.data = weight
    assert torch.equal(layer(rows), (wide * scale * weight.float()).to(dtype))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_turned", [16, 8])
def test_rotation_is_the_formula_to_the_bit_and_leaves_its_heads_alone(dtype, num_turned) -> None:
    heads = torch.randn((6, 3, 16), generator=torch.Generator().manual_seed(4)).to(dtype)
    before, positions = heads.clone(), torch.tensor([0, 9, 3, 50, 51, 2])
    table = RotaryEmbedding(num_turned, 64, 1e4, full_precision=False)
    cos, sin = (each[positions][:, None].to(dtype) for each in (table.cos, table.sin))
    first, second, rest = heads.split([num_turned // 2, num_turned // 2, 16 - num_turned], -1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    assert torch.equal(table(positions, dtype).apply(heads), torch.cat(turned, -1))
    assert torch.equal(heads, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_in_place_is_the_formula_to_the_bit_and_leaves_the_second_alone(dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    gate, up = (torch.randn((9, 40), generator=generator).to(dtype) for _ in range(2))
    before = up.clone()
    expected = torch.nn.functional.silu(gate) * up
    assert torch.equal(swiglu(gate.clone(), up), expected)
    assert torch.equal(up, before)
