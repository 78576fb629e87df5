"""What CUDA asks of the tensors of an op, and for which ops the host waits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.helpers.simulated_cuda.tensors import DEVICE, DeviceTensor, tensors_in

_aten = torch.ops.aten

COPIES = {_aten.copy_.default, _aten._to_copy.default}

_INDEXING = {
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default,
    _aten._index_put_impl_.default, _aten._unsafe_index.Tensor,
}  # fmt: skip

_TAKES_NUMBERS = {
    *_INDEXING, _aten.fill_.Tensor, _aten.fill.Tensor, _aten.masked_fill.Tensor,
    _aten.masked_fill_.Tensor, _aten.where.self, _aten.index_fill_.int_Tensor,
    _aten.index_fill.int_Tensor,
}  # fmt: skip
"""Ops besides those of single numbers that take a CPU tensor without dimensions."""

_WAITING = {
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default,
    _aten._unique2.default, _aten._unique.default, _aten.unique_dim.default,
    _aten.unique_consecutive.default, _aten.unique_dim_consecutive.default, _aten.equal.default,
    _aten.allclose.default,
    _aten.bincount.default, _aten.histc.default, _aten.multinomial.default,
}  # fmt: skip

_NO_KERNEL = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default,
    _aten.new_empty.default, _aten.new_empty_strided.default, _aten.detach.default,
    _aten.alias.default, _aten.lift_fresh.default, _aten.lift.default, _aten.set_.source_Storage,
    _aten._reshape_alias.default, _aten.detach_.default, _aten.unsqueeze_.default,
    _aten.squeeze_.dim, _aten.transpose_.default, _aten.t_.default,
}  # fmt: skip
"""Ops that change or make descriptions of memory, besides views."""


def check_devices(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """All tensors are where CUDA wants them.

    Raises:
        RuntimeError: As torch has it, if they are not.
    """
    if func in COPIES:
        return
    tensors = tensors_in((args, kwargs))
    off = [each for each in tensors if not isinstance(each, DeviceTensor)]
    if not off or len(off) == len(tensors):
        return
    if func in _INDEXING and isinstance(args[0], DeviceTensor):
        values = args[2:3] if len(args) > 2 else ()
        off = [each for each in values if not isinstance(each, DeviceTensor)]
    takes_numbers = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
    is_wrong = any(each.dim() > 0 for each in off) or (off and not takes_numbers)
    if is_wrong or any(each is args[0] and func._schema.is_mutable for each in off):
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu"
        )


def waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits in an op that is not a copy."""
    if func in _WAITING:
        return True
    if func is _aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func in _INDEXING:
        indices = [each for each in args[1] if each is not None]
        if any(not isinstance(each, DeviceTensor) for each in indices):
            return True  # they are copied to the device from pageable memory
        masks = [each for each in indices if each.dtype in (torch.bool, torch.uint8)]
        return bool(masks) and not _is_masked_fill(indices, args)
    return False


def launches(func: Any) -> bool:
    """Whether an op is a kernel."""
    return not (func.is_view or func in _NO_KERNEL)


def _is_masked_fill(indices: list[Tensor], args: Any) -> bool:
    """A number is put where one mask is true: torch needs no list of the places then."""
    if len(args) < 3 or len(indices) != 1:
        return False
    value, accumulate = args[2], args[3] if len(args) > 3 else False
    return not isinstance(value, DeviceTensor) and value.numel() == 1 and not accumulate
