"""How an engine is set up; fixed for its life."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final, Literal, TypeGuard, get_args

from starr_engine.errors import ConfigError
from starr_engine.memory_size import MemorySize, parse_memory_size
from starr_engine.registry import unknown_name

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]
Quantization = Literal["none", "int8", "fp8"]
CudaGraphs = Literal["auto", "off"]
LaunchAhead = Literal["auto", "on", "off"]

MAX_THREADS: Final = 1024
"""Torch ends the process, without an error, when it cannot start the threads asked for."""

_UNSET_COUNTS: Final = (
    "max_model_len",
    "mask_block_length",
    "page_size",
    "num_pages",
    "num_threads",
)
_COUNTS: Final = (
    *("max_num_requests", "max_num_batched_tokens", "tensor_parallel_size"),
    *_UNSET_COUNTS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine.

    Raises:
        ConfigError: If a value is out of range; names all of them at once.
    """

    model: str = "tiny-llada"
    """A shipped model's name, a local folder in the published format, or a hub id."""

    revision: str | None = None
    """Branch, tag or commit of a hub id; None takes the hub's main branch."""

    load_format: LoadFormat = "auto"
    """``auto`` reads the model's safetensors; ``dummy`` reads its configuration only and makes
    random weights up, for benchmarks."""

    dtype: Dtype = "auto"
    """Of weights, activations and pages; ``auto`` is float32 on CPU, bfloat16 on CUDA."""

    quantization: Quantization = "none"
    """Of the matrices of the layers: ``int8`` keeps them in eight bits and computes in ``dtype``;
    ``fp8``, on CUDA, also multiplies in eight bits. Both need the extra ``quant``."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:N``; ``auto`` takes CUDA where torch has it."""

    tensor_parallel_size: int = 1
    """Processes of this machine that share the model's heads, inner rows, experts and vocabulary,
    each with a GPU of its own or its share of the cores: the ranks. What is said of memory is then
    that of each rank."""

    max_num_requests: int = 16
    """Requests that run at once: the batch size."""

    max_num_batched_tokens: int = 65536
    """Most rows computed in one step; requests beyond it wait for the next step."""

    ridge_tokens: int | None = None
    """Rows up to which a step takes about as long as reading the weights takes. Refreshes fill a
    step up to it, and beyond it they are spread over steps; 0 lets them coincide. None is 512 on
    CUDA and 0 on CPU."""

    max_model_len: int | None = None
    """Longest prompt plus ``max_tokens``; None takes the model's own limit."""

    mask_block_length: int | None = None
    """Block length of a block-causal model's attention mask; None takes what its files say."""

    page_size: int | None = None
    """Rows of a page; None is 32, or the next multiple of a block-causal model's block length."""

    num_pages: int | None = None
    """Pages of the pool, with the reserved page 0; None is as many as ``max_num_requests`` of the
    longest length need, within ``kv_memory``; twice that where prefixes are shared."""

    kv_memory: MemorySize = "auto"
    """Most memory of the pages when ``num_pages`` is None, the reserved one not counted: bytes; a
    size such as ``"512MiB"`` or ``"2GB"``; or a fraction, as a float or ``"50%"``, of what is free
    once the model is loaded. On CUDA that is what the largest step leaves, which is measured when
    the engine starts, unless the model is split; elsewhere a fraction must leave room for
    activations. ``auto`` is 1 GiB on a CPU and 95% on CUDA (80% if the model is split)."""

    prefix_caching: bool = True
    """Whether requests share the pages of equal prefixes where that is exact: on block-causal
    models, between requests of one ``cache_salt``."""

    canvas_cache: int = 8
    """Canvases of bidirectional models whose first step is remembered for requests that begin
    with the same one; 0 remembers none."""

    attention_backend: str = "auto"
    """A registered attention backend; ``auto`` takes the first that supports the model."""

    cuda_graphs: CudaGraphs = "auto"
    """Whether steps inside blocks are recorded as CUDA graphs, one for each size that occurs, and
    replayed; ``auto`` does so on CUDA where the model allows it (``starr-engine info``)."""

    graph_buckets: tuple[int, ...] | None = None
    """Numbers of sequences that recorded steps are padded to, ascending; larger steps run without.
    A sequence is a request, or one of two parts of it when a block is committed. None is 1, 2, 4,
    8, 16 and so on up to what ``max_num_requests`` can need."""

    record_at_start: bool = False
    """Whether recordings for blocks of the model's usual length are made when the engine starts, so
    that no request has to wait for one; else when a step first needs them. Where an attention
    backend copies page tables, there are too many to make them ahead."""

    launch_ahead: LaunchAhead = "auto"
    """Whether a step inside a block is launched before the one in front of it is known to the host;
    ``auto`` does so on CUDA. It changes no token; rows may be computed that come to nothing, see
    ``EngineStats.num_lost_rows``."""

    num_threads: int | None = None
    """CPU threads of torch, of each rank; None leaves torch's own setting, or shares it out among
    the ranks."""

    def __post_init__(self) -> None:
        # A path is as good as its text.
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        if isinstance(self.graph_buckets, list):
            object.__setattr__(self, "graph_buckets", tuple(self.graph_buckets))
        problems = [
            f"{name} must be an integer >= 1, got {value!r}"
            for name in _COUNTS
            if not _is_count(value := getattr(self, name))
            and not (value is None and name in _UNSET_COUNTS)
        ]
        try:
            if self.kv_memory != "auto":
                parse_memory_size("kv_memory", self.kv_memory)
        except ConfigError as error:
            problems.append(str(error))
        if self.num_pages == 1:
            problems.append("num_pages must be at least 2: page 0 is reserved")
        if _is_count(self.num_threads) and self.num_threads > MAX_THREADS:
            problems.append(f"num_threads must be at most {MAX_THREADS}, got {self.num_threads}")
        if self.dtype not in get_args(Dtype):
            problems.append(f"dtype must be auto, float32, bfloat16 or float16, got {self.dtype!r}")
        if self.load_format not in get_args(LoadFormat):
            problems.append(f"load_format must be auto or dummy, got {self.load_format!r}")
        if self.quantization not in get_args(Quantization):
            problems.append(f"quantization must be none, int8 or fp8, got {self.quantization!r}")
        if self.quantization != "none" and self.tensor_parallel_size != 1:
            problems.append(
                f"quantization={self.quantization!r} cannot be used with tensor_parallel_size="
                f"{self.tensor_parallel_size}: quantised matrices cannot be split; use "
                "quantization='none', or tensor_parallel_size=1"
            )
        if self.cuda_graphs not in get_args(CudaGraphs):
            problems.append(f"cuda_graphs must be auto or off, got {self.cuda_graphs!r}")
        if self.launch_ahead not in get_args(LaunchAhead):
            problems.append(f"launch_ahead must be auto, on or off, got {self.launch_ahead!r}")
        if self.graph_buckets is not None and not _is_ascending(self.graph_buckets):
            problems.append(
                "graph_buckets must be integers >= 1 in ascending order, at least one, got "
                f"{self.graph_buckets!r}"
            )
        if self.revision is not None and (not isinstance(self.revision, str) or not self.revision):
            problems.append(f"revision must name a branch, tag or commit, got {self.revision!r}")
        if not isinstance(self.prefix_caching, bool):
            problems.append(f"prefix_caching must be True or False, got {self.prefix_caching!r}")
        problems += [
            f"{name} must be an integer >= 0, got {value!r}"
            for name in ("canvas_cache", "ridge_tokens")
            if not (_is_count(value := getattr(self, name)) or (value == 0 and value is not False))
            and not (value is None and name == "ridge_tokens")
        ]
        if not isinstance(self.device, str):
            problems.append(f"device must be a name such as cpu or cuda:0, got {self.device!r}")
        if not isinstance(self.attention_backend, str):
            problems.append(
                f"attention_backend must be a name or auto, got {self.attention_backend!r}"
            )
        if not isinstance(self.model, str) or not self.model:
            problems.append(
                f"model must name a shipped model, a folder or a hub id, got {self.model!r}"
            )
        if problems:
            raise ConfigError("; ".join(problems))

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """Settings from keyword arguments of unknown origin.

        Raises:
            ConfigError: If a name is no setting, with the closest one; or a value is out of range.
        """
        known = [entry.name for entry in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(unknown_name("engine option", name, known))
        return cls(**options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig(EngineConfig):
    """Settings of an engine that runs: lengths and pages are chosen."""

    max_model_len: int
    page_size: int
    num_pages: int
    ridge_tokens: int


def _is_ascending(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    return all(map(_is_count, value)) and all(a < b for a, b in pairwise(value))


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
