"""Feed-forward experts, of which every row passes through a few.

Letters: T rows, k experts of a row, S = T * k pairs of a row and an expert, E experts, H row size,
F inner size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.errors import ConfigError
from starr_engine.layers.mlp import Gate, swiglu
from starr_engine.layers.places import Cut, TensorPlace, cut_parameter
from starr_engine.layers.ranks import Ranks

_GROUPED_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
_GROUPED_STRIDE: Final = 16
"""Bytes of which the rows of both operands must hold a multiple."""

_GROUPED_CAPABILITY: Final = (8, 0)
"""Oldest CUDA device that torch's grouped product supports."""


class Experts(nn.Module):
    """Gated feed-forward parts without biases, stacked, so that one product serves them all.

    Pairs of a row and an expert are sorted by expert once. Their results come back by a
    permutation and are summed in the order of the row's own choices, in float32, so that what
    becomes of a row does not depend on the order or the number of other rows, but for the
    rounding of the products: as with dense layers, kernels for many rows add up a row's terms in
    another order than kernels for few.

    The products are :func:`torch.nn.functional.grouped_mm`. Where it does not support the device,
    the dtype or the sizes, experts are computed one after the other, and a warning says why.

    Published files multiply by the weights and sum in the dtype of the rows; so results differ
    from theirs by roundings below float32.

    Args:
        num_experts: E.
        size: H.
        inner_size: F.
        gate: Joins the two halves of what an expert's first product makes of a row.
    """

    def __init__(self, num_experts: int, size: int, inner_size: int, gate: Gate = swiglu) -> None:
        super().__init__()
        self.gate = gate
        self.gate_up = nn.Parameter(torch.empty((num_experts, 2 * inner_size, size)))
        self.down = nn.Parameter(torch.empty((num_experts, size, inner_size)))
        self._num_experts = num_experts
        self._first = 0

    def split(self, ranks: Ranks) -> None:
        """Keep this rank's share of the experts; the sum over ranks is the caller's.

        Raises:
            ConfigError: If there are fewer experts than ranks.
        """
        if self._num_experts < ranks.count:
            raise ConfigError(
                f"a layer has {self._num_experts} experts, fewer than the {ranks.count} ranks that "
                f"share them; use tensor_parallel_size={self._num_experts} or less"
            )
        kept = ranks.share(self._num_experts)
        for name in ("gate_up", "down"):
            cut_parameter(self, name, Cut(rows=(kept,)))
        self._first = kept[0]

    def published_places(self) -> Mapping[str, TensorPlace]:
        """Three tensors of each expert, under the names that most checkpoints use."""
        inner_size = self.down.shape[-1]
        places = {}
        for index in range(len(self.down)):
            for name, parameter, part in (
                ("gate_proj", "gate_up", (index, slice(0, inner_size))),
                ("up_proj", "gate_up", (index, slice(inner_size, 2 * inner_size))),
                ("down_proj", "down", (index,)),
            ):
                place = TensorPlace(parameter=parameter, index=part)
                places[f"{self._first + index}.{name}.weight"] = place
        return places

    def num_idle_parameters(self, num_chosen: int) -> int:
        """Those that a row does not pass through which is sent to so many experts."""
        num_experts = len(self.down)
        held = sum(weight.numel() for weight in self.parameters())
        return held // num_experts * (num_experts - num_chosen)

    def forward(self, rows: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of what each row's experts make of it.

        Args:
            rows: [T, H].
            expert_ids: [T, k] int64 in [0, E), distinct in a row.
            weights: [T, k] float32.

        Returns:
            [T, H] in the dtype of ``rows``; of a rank's experts alone if they are split.
        """
        num_rows, num_chosen = expert_ids.shape
        is_elsewhere = self._is_elsewhere(expert_ids)
        if is_elsewhere is not None:
            # Sorted behind those held here, where no product is computed.
            expert_ids = (expert_ids - self._first).masked_fill(is_elsewhere, len(self.down))
        pair_experts, order = expert_ids.flatten().sort(stable=True)
        every_expert = torch.arange(len(self.down), device=rows.device)
        ends = torch.searchsorted(pair_experts, every_expert, right=True, out_int32=True)
        inner = grouped_linear(rows.index_select(0, order // num_chosen), self.gate_up, ends)
        # Slices, not chunks: torch lets only views that were made alone be overwritten.
        half = inner.shape[-1] // 2
        made = grouped_linear(self.gate(inner[..., :half], inner[..., half:]), self.down, ends)
        by_row = torch.empty_like(made).index_copy_(0, order, made)
        by_row = by_row.view(num_rows, num_chosen, rows.shape[1])
        if is_elsewhere is not None:
            by_row = by_row.masked_fill(is_elsewhere.unsqueeze(-1), 0)
        return (by_row.float() * weights.unsqueeze(-1)).sum(1).to(rows.dtype)

    def _is_elsewhere(self, expert_ids: Tensor) -> Tensor | None:
        """[T, k] bool, whether another rank has the expert; None if all are here."""
        if len(self.down) == self._num_experts:
            return None
        return (expert_ids < self._first) | (expert_ids >= self._first + len(self.down))


class StackedExperts(Experts):
    """Experts that are published as they are kept: in two tensors for all of them."""

    def published_places(self) -> Mapping[str, TensorPlace]:
        """``gate_up_proj`` [E, 2 * F, H] and ``down_proj`` [E, H, F]."""
        return {
            "gate_up_proj": TensorPlace(parameter="gate_up"),
            "down_proj": TensorPlace(parameter="down"),
        }


def grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Product of each group of rows with a matrix of its own.

    Args:
        rows: [S, K], the rows of a group side by side.
        weight: [E, N, K].
        ends: [E] int32, where the rows of each group end; ascending.

    Returns:
        [S, N]; rows behind the last end hold anything.
    """
    obstacle = grouped_mm_obstacle(weight)
    if obstacle is None:
        return functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    warnings.warn(
        f"experts are computed one after the other, which is slower: {obstacle}", stacklevel=2
    )
    made = rows.new_empty((len(rows), weight.shape[1]))
    for index, (start, end) in enumerate(_spans(ends)):
        torch.mm(rows[start:end], weight[index].t(), out=made[start:end])
    return made


def grouped_mm_obstacle(weight: Tensor) -> str | None:
    """Why :func:`torch.nn.functional.grouped_mm` cannot multiply by ``weight`` [E, N, K], or None.

    Source:
        Its checks in torch 2.11 to 2.13: three floating dtypes, rows of a multiple of 16 bytes,
        and on CUDA a device of capability 8.0 or newer.
    """
    if weight.dtype not in _GROUPED_DTYPES:
        return f"torch's grouped product does not take {weight.dtype}"
    if weight.shape[-1] * weight.element_size() % _GROUPED_STRIDE:
        return (
            f"torch's grouped product needs rows of a multiple of {_GROUPED_STRIDE} bytes, got "
            f"{weight.shape[-1]} values of {weight.dtype}"
        )
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < _GROUPED_CAPABILITY:
        return "torch's grouped product needs a CUDA device of capability 8.0 or newer"
    return None


def recording_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a CUDA graph cannot hold grouped products, or None.

    Source:
        ``_grouped_mm_fallback`` of torch 2.11 to 2.13, which asks the device where groups end.
    """
    if device.type != "cuda" or (
        dtype is torch.bfloat16 and torch.cuda.get_device_capability(device) >= (9, 0)
    ):
        return None
    return (
        "the grouped product of the experts waits for the device, except in bfloat16 on a device "
        "of capability 9.0 or newer"
    )


def _spans(ends: Tensor) -> Iterator[tuple[int, int]]:
    """First row and end of every group."""
    start = 0
    for end in ends.tolist():
        yield start, end
        start = end
