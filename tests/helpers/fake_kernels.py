"""Attention packages that need a GPU, in plain PyTorch: what their arguments mean, not how fast.

Each holds its caller to what the real one demands (shapes, dtypes, page sizes, which arguments
exclude each other; sources in the backends' own files) and counts its calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from starr_engine.attention.reference import plain_attention

Calls = list[str]
"""``paged`` or ``packed`` for each kernel call."""


def fake_package(name: str, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Put the package of a backend in place of the real one; returns its calls so far."""
    calls: Calls = []
    if name == "torch_varlen":
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _varlen_attn(calls))
        return calls
    modules: dict[str, Callable[[Calls], dict[str, Any]]] = {
        "flash_attn": _flash_attn,
        "flashinfer": _flashinfer,
        "xformers": _xformers,
    }
    module_name = "xformers.ops" if name == "xformers" else name
    module = ModuleType(module_name)
    vars(module).update(modules[name](calls))
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module_name, module)
    return calls


def make_gpu_seem_there(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)
) -> None:
    """For predicates alone: tensors cannot go there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


def _attend(query: Tensor, keys: list[Tensor], values: list[Tensor], cu_query: Any) -> Tensor:
    """Sequence n has the query rows ``cu_query[n]:cu_query[n+1]``."""
    bounds = [int(at) for at in cu_query]
    assert bounds[0] == 0
    assert bounds[-1] == len(query)
    assert len(keys) == len(values) == len(bounds) - 1
    out = torch.full_like(query, float("nan"))
    for (start, stop), key, value in zip(pairwise(bounds), keys, values, strict=True):
        assert stop > start
        assert len(key) > 0
        out[start:stop] = plain_attention(query[start:stop], key, value).to(query.dtype)
    return out


def _packed(rows: Tensor, cumulative: Any) -> list[Tensor]:
    bounds = [int(at) for at in cumulative]
    assert bounds[0] == 0
    assert bounds[-1] == len(rows)
    return [rows[start:stop] for start, stop in pairwise(bounds)]


def _paged(cache: Tensor, table: Tensor, lengths: list[int]) -> list[Tensor]:
    assert table.dtype == torch.int32
    assert table.stride(-1) == 1
    assert table.shape[0] == len(lengths)
    assert max(lengths) <= table.shape[1] * cache.shape[1]
    return [
        cache[row.long()].flatten(0, 1)[:length] for row, length in zip(table, lengths, strict=True)
    ]


def _flash_2(
    calls: Calls,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_query: Tensor,
    cu_key: Tensor,
    max_query: int,
    max_key: int,
    table: Tensor | None,
    lengths: Tensor | None = None,
) -> Tensor:
    """``mha_varlen_fwd`` of FlashAttention 2, which torch contains too."""
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert cu_query.dtype == cu_key.dtype == torch.int32
    assert cu_query.is_contiguous()
    assert cu_key.is_contiguous()
    assert cu_query.shape == cu_key.shape
    assert max_query >= int(cu_query.diff().max())  # upper bounds, in recorded steps
    assert query.shape[-1] % 8 == 0
    assert query.shape[-1] <= 256
    used = (cu_key.diff() if lengths is None else lengths).tolist()
    assert max_key >= max(used)
    calls.append("packed" if table is None else "paged")
    if table is None:
        return _attend(query, _packed(key, cu_key), _packed(value, cu_key), cu_query)
    assert key.shape[1] % 256 == 0
    return _attend(query, _paged(key, table, used), _paged(value, table, used), cu_query)


def _varlen_attn(calls: Calls) -> Callable[..., Tensor]:
    def varlen_attn(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor | None,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: Tensor | None = None,
        block_table: Tensor | None = None,
        num_splits: int | None = None,
    ) -> Tensor:
        assert scale is None
        assert window_size == (-1, -1)
        assert num_splits == 1
        num_kv_heads = key.shape[2] if block_table is not None else key.shape[1]
        assert enable_gqa or num_kv_heads == query.shape[1]
        assert (block_table is None) == (seqused_k is None)
        implementation = torch.nn.attention.current_flash_attention_impl()
        if implementation == "FA3" and block_table is not None:
            assert cu_seq_k is None
            assert seqused_k is not None
            cu_seq_k = torch.cat([seqused_k[:1] * 0, seqused_k.cumsum(0, dtype=torch.int32)])
            lengths = seqused_k.tolist()
            calls.append("paged")
            return _attend(
                query,
                _paged(key, block_table, lengths),
                _paged(value, block_table, lengths),
                cu_seq_q,
            )
        assert cu_seq_k is not None
        return _flash_2(
            calls, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, block_table, seqused_k
        )

    return varlen_attn


def _flash_attn(calls: Calls) -> dict[str, Any]:
    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        block_table: Tensor | None = None,
    ) -> Tensor:
        assert not causal
        assert (dropout_p, softmax_scale, window_size) == (0.0, None, (-1, -1))
        return _flash_2(
            calls, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, block_table
        )

    return {"flash_attn_varlen_func": flash_attn_varlen_func}


@dataclass
class _Wrapper:
    """Common to both of FlashInfer's wrappers: one plan at a time, and a shared workspace."""

    calls: Calls
    workspace: Tensor
    plans: dict[str, Any] = field(default_factory=dict)

    def keep(self, **plan: Any) -> None:
        assert self.workspace.dtype == torch.uint8
        assert not plan["causal"]
        assert plan["disable_split_kv"] == torch.are_deterministic_algorithms_enabled()
        assert plan["q_data_type"] == plan["kv_data_type"]
        assert plan["head_dim_qk"] in (64, 128, 256)
        for name in ("qo_indptr", "kv_indptr", "paged_kv_indptr", "paged_kv_last_page_len"):
            if name in plan:
                assert plan[name].dtype == torch.int32
                assert plan[name].device.type == "cpu"
        # The real one copies them.
        self.plans = {
            name: each.clone() if isinstance(each, Tensor) else each for name, each in plan.items()
        }

    def check(self, query: Tensor, key: Tensor) -> None:
        plan = self.plans
        assert query.shape[1:] == (plan["num_qo_heads"], plan["head_dim_qk"])
        assert key.shape[-2:] == (plan["num_kv_heads"], plan["head_dim_qk"])
        assert query.dtype == key.dtype == plan["q_data_type"]


def _flashinfer(calls: Calls) -> dict[str, Any]:
    class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
        def __init__(
            self,
            workspace: Tensor,
            kv_layout: str = "NHD",
            use_cuda_graph: bool = False,
            qo_indptr_buf: Tensor | None = None,
            paged_kv_indptr_buf: Tensor | None = None,
            paged_kv_indices_buf: Tensor | None = None,
            paged_kv_last_page_len_buf: Tensor | None = None,
        ) -> None:
            assert kv_layout == "NHD"
            super().__init__(calls, workspace)
            buffers = (
                qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf,
                paged_kv_last_page_len_buf,
            )  # fmt: skip
            self.buffers: list[Tensor] = [each for each in buffers if each is not None]
            assert len(self.buffers) == (4 if use_cuda_graph else 0)

        def keep(self, **plan: Any) -> None:
            super().keep(**plan)
            if self.buffers:  # the batch size never changes, and the list of pages has its room
                query, pages, indices, last = self.buffers
                assert len(plan["qo_indptr"]) == len(query)
                assert len(plan["paged_kv_indptr"]) == len(pages) == len(last) + 1
                assert len(plan["paged_kv_indices"]) <= len(indices)

        def plan(
            self,
            qo_indptr: Tensor,
            paged_kv_indptr: Tensor,
            paged_kv_indices: Tensor,
            paged_kv_last_page_len: Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim_qk: int,
            page_size: int,
            causal: bool = False,
            q_data_type: Any = "float16",
            kv_data_type: Any = None,
            disable_split_kv: bool = False,
        ) -> None:
            self.keep(**{name: each for name, each in locals().items() if name not in _HIDDEN})

        def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
            plan = self.plans
            self.check(q, paged_kv_cache[0])
            last = plan["paged_kv_last_page_len"].tolist()
            assert all(1 <= rows <= plan["page_size"] for rows in last)
            assert plan["paged_kv_indices"].dtype == torch.int32
            bounds = plan["paged_kv_indptr"].tolist()
            assert bounds[-1] == len(plan["paged_kv_indices"])
            reads: list[list[Tensor]] = []
            for cache in paged_kv_cache:
                assert cache.shape[1] == plan["page_size"]
                pages = plan["paged_kv_indices"].long()
                reads.append(
                    [
                        cache[pages[start:stop]].flatten(0, 1)[
                            : (stop - start - 1) * plan["page_size"] + rows
                        ]
                        for (start, stop), rows in zip(pairwise(bounds), last, strict=True)
                    ]
                )
            calls.append("paged")
            return _attend(q, *reads, plan["qo_indptr"])

    class BatchPrefillWithRaggedKVCacheWrapper(_Wrapper):
        def __init__(self, workspace: Tensor, kv_layout: str = "NHD") -> None:
            assert kv_layout == "NHD"
            super().__init__(calls, workspace)

        def plan(
            self,
            qo_indptr: Tensor,
            kv_indptr: Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim_qk: int,
            causal: bool = False,
            q_data_type: Any = "float16",
            kv_data_type: Any = None,
            disable_split_kv: bool = False,
        ) -> None:
            self.keep(**{name: each for name, each in locals().items() if name not in _HIDDEN})

        def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            plan = self.plans
            self.check(q, k)
            calls.append("packed")
            indptr = plan["kv_indptr"]
            return _attend(q, _packed(k, indptr), _packed(v, indptr), plan["qo_indptr"])

    return {
        each.__name__: each
        for each in (BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper)
    }


_HIDDEN = ("self", "__class__")


@dataclass
class _Paged:
    q_seqlen: list[int]
    kv_seqlen: list[int]
    block_tables: Tensor
    page_size: int


@dataclass
class _Padded:
    q_seqlen: list[int]
    kv_padding: int
    kv_seqlen: list[int]

    @classmethod
    def from_seqlens(
        cls, q_seqlen: list[int], kv_padding: int, kv_seqlen: list[int], *, device: Any = None
    ) -> _Padded:
        assert len(q_seqlen) == len(kv_seqlen)
        assert max(kv_seqlen) <= kv_padding
        return cls(q_seqlen, kv_padding, kv_seqlen)

    def make_paged(self, block_tables: Tensor, page_size: int, paged_type: type[_Paged]) -> _Paged:
        assert self.kv_padding == block_tables.shape[1] * page_size
        return paged_type(self.q_seqlen, self.kv_seqlen, block_tables, page_size)


@dataclass
class _Diagonal:
    q_seqlen: list[int]
    kv_seqlen: list[int]

    @classmethod
    def from_seqlens(
        cls, q_seqlen: list[int], kv_seqlen: list[int] | None = None, *, device: Any = None
    ) -> _Diagonal:
        return cls(q_seqlen, q_seqlen if kv_seqlen is None else kv_seqlen)


def _xformers(calls: Calls) -> dict[str, Any]:
    def memory_efficient_attention_forward(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0
    ) -> Tensor:
        assert p == 0.0
        assert query.ndim == key.ndim == value.ndim
        assert query.ndim in (4, 5)
        assert query.shape[0] == key.shape[0] == 1
        assert query.shape[2:] == key.shape[2:] == value.shape[2:]
        if query.ndim == 5:  # query heads of a group share keys that are expanded, not copied
            assert key.stride(3) == value.stride(3) == 0
            key, value = key[..., 0, :], value[..., 0, :]
        rows, keys, values = query[0].reshape(query.shape[1], -1, query.shape[-1]), key[0], value[0]
        cu_query = [0, *torch.tensor(attn_bias.q_seqlen).cumsum(0).tolist()]
        lengths = attn_bias.kv_seqlen
        if isinstance(attn_bias, _Paged):
            calls.append("paged")
            assert attn_bias.page_size % 256 == 0
            assert len(keys) % attn_bias.page_size == 0
            pages = (-1, attn_bias.page_size, *keys.shape[1:])
            reads = [
                _paged(each.reshape(pages), attn_bias.block_tables, lengths)
                for each in (keys, values)
            ]
        else:
            calls.append("packed")
            cu_key = [0, *torch.tensor(lengths).cumsum(0).tolist()]
            reads = [_packed(keys, cu_key), _packed(values, cu_key)]
        return _attend(rows, *reads, cu_query).reshape(query.shape)

    biases = SimpleNamespace(
        BlockDiagonalMask=_Diagonal,
        BlockDiagonalPaddedKeysMask=_Padded,
        PagedBlockDiagonalPaddedKeysMask=_Paged,
    )
    return {
        "memory_efficient_attention_forward": memory_efficient_attention_forward,
        "fmha": SimpleNamespace(attn_bias=biases),
    }
