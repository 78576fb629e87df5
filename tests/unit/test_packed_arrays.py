"""Arrays in one piece of memory: as they would be apart, and the tensors as the arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starr_engine.engine.packed_arrays import PackedArrays

SHAPES = {
    "odd": ((3,), torch.int32),
    "wide": ((5,), torch.int64),
    "none": ((0, 4), torch.int32),
    "table": ((2, 3), torch.int32),
}


def filled(device: str) -> tuple[PackedArrays, dict[str, np.ndarray]]:
    packed = PackedArrays(SHAPES, torch.device(device), tail=3)
    packed.tail[:] = [-1, 7, 1 << 40]
    wanted = {}
    for at, (name, (shape, dtype)) in enumerate(SHAPES.items()):
        array = packed.int64(name) if dtype == torch.int64 else packed.int32(name)
        assert array.shape == shape
        array[...] = 100 * at + np.arange(array.size).reshape(shape)
        wanted[name] = array.copy()
    return packed, wanted


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_each_tensor_holds_what_its_array_was_filled_with(device: str) -> None:
    packed, wanted = filled(device)
    memory = packed.upload()
    assert packed.tail_of(memory).tolist() == [-1, 7, 1 << 40]
    tensors = packed.views(memory)
    assert list(tensors) == list(SHAPES)
    for name, (_, dtype) in SHAPES.items():
        assert tensors[name].dtype == dtype
        assert tensors[name].device.type == device
        assert tensors[name].data_ptr() % 16 == 0
        np.testing.assert_array_equal(tensors[name].cpu().numpy(), wanted[name])


def test_on_a_cpu_nothing_is_copied() -> None:
    packed, _ = filled("cpu")
    memory = packed.upload()
    packed.int32("odd")[0] = 77
    packed.tail[0] = 78
    assert packed.views(memory)["odd"][0] == 77
    assert packed.tail_of(memory)[0] == 78
