"""From settings to the parts of an engine: model, pages, tokenizer, backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from starr_engine._core import PagePool
from starr_engine.attention.base import AttentionBackend, AttentionShape
from starr_engine.attention.fixed import recordable
from starr_engine.attention.select import make_backend
from starr_engine.cache.pool import KVPool
from starr_engine.config import Dtype, EngineConfig, Quantization, ResolvedConfig
from starr_engine.engine.memory import free_memory, memory_budget, resolve_kv_memory
from starr_engine.engine.profiling import bytes_for_pages
from starr_engine.engine.rank_group import RankGroup, hear_answers, tell_settings
from starr_engine.engine.rank_hosts import rank_device
from starr_engine.engine.rank_limits import check_ranks
from starr_engine.engine.rank_processes import RankProcesses
from starr_engine.errors import CapacityError, ConfigError
from starr_engine.models.base import DiffusionModel, ModelSpec
from starr_engine.models.loading.loader import build_model, fill_model
from starr_engine.models.loading.locate import fetch_weights, resolve_model
from starr_engine.models.loading.quantization import (
    can_be_quantized,
    check_quantization,
    expected_weight_bytes,
)
from starr_engine.tokenization import Tokenizer
from starr_engine.tokenizer_files import has_tokenizer

_ALWAYS_FITS: Final = 2**28
"""Bytes of weights for which nobody asks what is free."""

PAGE_SIZE: Final = 32
"""Least rows of a page whose size is left open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """Everything an engine is made of, with every ``auto`` of its settings replaced."""

    config: ResolvedConfig
    device: torch.device
    model: DiffusionModel
    tokenizer: Tokenizer | None
    page_pool: PagePool
    kv_pool: KVPool
    backends: tuple[AttentionBackend, ...]
    """Of every layer."""

    num_parameters: int
    """Of the whole model."""

    others: RankGroup | None
    """The other ranks, if the model is split; this process has the share of rank 0."""


StartRanks = Callable[[int, torch.device], RankGroup]
"""Makes a group of so many ranks, rank 0 among them, on devices of this kind."""


def load(config: EngineConfig, start_ranks: StartRanks = RankProcesses) -> LoadedEngine:
    """Load the model and size the pool.

    Args:
        config: As users gave it.
        start_ranks: Called if the model is split; rank 0 of it is this process.

    Raises:
        ConfigError: If the model, device, dtype or backend cannot be used.
        CapacityError: If not even one page fits into ``kv_memory``, or the pool does not
            fit into the machine's memory.
        EngineDeadError: If another rank ended before it was ready.
    """
    device, count = resolve_device(config.device), config.tensor_parallel_size
    dtype_name = resolve_dtype(config.dtype, device)
    folder = resolve_model(config.model, config.revision)
    model = build_model(folder, mask_block_length=config.mask_block_length)
    check_quantization(model, config.quantization, device, getattr(torch, dtype_name))
    config = replace(config, dtype=dtype_name, device=str(device))
    if count == 1:
        return _load_share(config, folder, model, device, None)
    check_ranks(model.spec, device, count)
    if device.type == "cpu" and config.num_threads is None:
        # Ranks on one machine share its cores.
        config = replace(config, num_threads=max(1, torch.get_num_threads() // count))
    group = start_ranks(count, device)
    try:
        return _load_share(config, folder, model, rank_device(device, 0), group)
    except BaseException:
        group.close()
        raise


def _load_share(
    config: EngineConfig,
    folder: Path,
    model: DiffusionModel,
    device: torch.device,
    group: RankGroup | None,
) -> LoadedEngine:
    """All of the model, or rank 0's share while the others load theirs."""
    dtype: torch.dtype = getattr(torch, config.dtype)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    if group is not None:
        model.split(group.ranks)
    check_weights_fit(model, device, config.dtype, config.quantization)
    if config.load_format == "auto":
        fetch_weights(config.model, config.revision)
    if group is not None:
        tell_settings(
            group,
            folder=str(folder),
            dtype=config.dtype,
            load_format=config.load_format,
            mask_block_length=config.mask_block_length,
            num_threads=config.num_threads,
        )
    fill_model(
        model,
        folder,
        device,
        dtype,
        load_format=config.load_format,
        quantization=config.quantization,
    )
    answers = [] if group is None else hear_answers(group)
    elsewhere: list[int] = [answer["free_bytes"] for answer in answers]

    page_size = resolve_page_size(config.page_size, model.spec.mask_block)
    backends = make_backends(config.attention_backend, model.spec_here, page_size, dtype, device)

    def free() -> int:
        if device.type == "cpu":  # the ranks share it
            return free_memory(device) // config.tensor_parallel_size
        if group is not None:  # a step would take all of them
            return min([free_memory(device), *elsewhere])
        here = partial(free_memory, device)
        found = recordable(backends[0])
        copies = found is not None and found.copies_table
        return bytes_for_pages(here, model, backends, config, dtype, copies=copies)

    wanted = resolve_kv_memory(config.kv_memory, device, is_split=group is not None)
    resolved = resolve_lengths(replace(config, kv_memory=wanted), model.spec_here, dtype, free)
    sizes = {"num_pages": resolved.num_pages, "page_size": page_size}
    kv_pool = make_pages(model, dtype, device, **sizes)
    if group is not None:
        tell_settings(group, attention_backend=backends[-1].name, **sizes)
        hear_answers(group)
    mask = model.spec.mask_token_id
    return LoadedEngine(
        config=replace(resolved, attention_backend=backends[-1].name),
        device=device,
        model=model,
        num_parameters=num_parameters,
        tokenizer=Tokenizer.from_folder(folder, mask) if has_tokenizer(folder) else None,
        page_pool=PagePool(resolved.num_pages, resolved.page_size),
        kv_pool=kv_pool,
        backends=backends,
        others=group,
    )


def check_weights_fit(
    model: DiffusionModel, device: torch.device, dtype: Dtype, quantization: Quantization = "none"
) -> None:
    """Refuse a model whose weights are larger than what is free, before anything is fetched.

    Raises:
        CapacityError: Says how much is needed and how much is there.
    """
    needed = expected_weight_bytes(model, getattr(torch, dtype), quantization)
    count = 1 if model.ranks is None or device.type != "cpu" else model.ranks.count
    needed *= count  # the ranks of one machine share its memory
    if needed < _ALWAYS_FITS:
        return
    free = free_memory(device)
    if needed > free:
        form = dtype if quantization == "none" else f"{quantization} and {dtype}"
        narrower = " or take dtype='bfloat16'," if dtype == "float32" else ""
        if quantization == "none" and dtype != "float16" and can_be_quantized(model):
            narrower += " or take quantization='int8',"
        raise CapacityError(
            f"the weights take {needed / 1e9:.1f} GB as {form}, and {device} has "
            f"{free / 1e9:.1f} GB free; free some,{narrower} or take a smaller model"
        )


def make_pages(
    model: DiffusionModel,
    dtype: torch.dtype,
    device: torch.device,
    *,
    num_pages: int,
    page_size: int,
) -> KVPool:
    """The pages of a model, or of a rank's share of one.

    Raises:
        CapacityError: If they do not fit into the memory of the device.
    """
    spec = model.spec_here
    try:
        return KVPool(
            num_layers=spec.num_layers,
            num_pages=num_pages,
            page_size=page_size,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=dtype,
            device=device,
            layer_shapes=[(shape.num_kv_heads, shape.head_dim) for shape in spec.layer_shapes],
        )
    except RuntimeError as error:  # torch's, on every device: no memory, or a size beyond 64 bits
        raise CapacityError(
            f"a pool of {num_pages} pages of {page_size} rows does not fit into the "
            f"memory of {device}; lower num_pages or kv_memory"
        ) from error


def make_backends(
    name: str, spec: ModelSpec, page_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[AttentionBackend, ...]:
    """The backend of every layer; layers of one shape share one.

    Raises:
        ConfigError: If the backend cannot serve the model.
    """
    heads = [(shape.num_kv_heads, shape.head_dim) for shape in spec.shapes]
    made = {
        (num_kv_heads, head_dim): make_backend(
            name,
            AttentionShape(
                num_heads=spec.num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                page_size=page_size,
                dtype=dtype,
                device=device,
            ),
        )
        for num_kv_heads, head_dim in dict.fromkeys(heads)
    }
    return tuple(made[each] for each in heads)


def resolve_device(name: str) -> torch.device:
    """The device that ``auto`` or a name stands for.

    Raises:
        ConfigError: If torch does not know or have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use device='cpu'"
        )
    return device


def resolve_dtype(name: Dtype, device: torch.device) -> Dtype:
    """float32 on CPU and bfloat16 on CUDA for ``auto``, else the dtype named."""
    if name == "auto":
        return "float32" if device.type == "cpu" else "bfloat16"
    return name


CUDA_RIDGE_ROWS: Final = 512


def resolve_lengths(
    config: EngineConfig, spec: ModelSpec, dtype: torch.dtype, free: Callable[[], int]
) -> ResolvedConfig:
    """Replace unset lengths and pages by what the model allows and the memory holds.

    Args:
        config: As users gave it.
        spec: Of the model.
        dtype: Of the pages.
        free: Gives the bytes that are free beside the model.

    Raises:
        ConfigError: If ``max_model_len`` is beyond the model's own limit, ``page_size`` does not
            suit its attention, or ``kv_memory`` is a fraction and the machine does not say of what.
        CapacityError: If ``num_pages`` is not set and ``kv_memory`` holds no page.
    """
    limit = resolve_max_model_len(config.max_model_len, spec)
    page_size = resolve_page_size(config.page_size, spec.mask_block)
    num_pages = config.num_pages
    if num_pages is None:
        page_bytes = spec_page_bytes(spec, page_size, dtype)
        budget = memory_budget(config.kv_memory, free)
        if budget < page_bytes:
            raise CapacityError(
                f"kv_memory={config.kv_memory!r} ({budget} bytes) holds no page of {page_bytes} "
                f"bytes ({page_size} rows); raise it, or lower page_size"
            )
        wanted = config.max_num_requests * -(-limit // page_size)
        if config.prefix_caching and spec.mask_block is not None:
            wanted *= 2  # as many again for prefixes that no request uses at the moment
        # Page 0 is reserved: padding rows write there.
        num_pages = min(wanted, budget // page_bytes) + 1
    given = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    ridge = config.ridge_tokens
    chosen = {
        "max_model_len": limit,
        "page_size": page_size,
        "num_pages": num_pages,
        "ridge_tokens": resolve_ridge(config.device) if ridge is None else ridge,
    }
    return ResolvedConfig(**given | chosen)


def resolve_ridge(device: str) -> int:
    """Rows up to which reading the weights takes longer than computing: FLOP/s over bytes/s.

    About 300 for an H100 in bfloat16, and more where kernels do not reach the peak; few rows on a
    CPU, where steps are long enough to gain nothing from spreading refreshes.
    """
    return CUDA_RIDGE_ROWS if torch.device(device).type == "cuda" else 0


def resolve_max_model_len(limit: int | None, spec: ModelSpec) -> int:
    """The length asked for, or the model's own.

    Raises:
        ConfigError: If it is beyond the model's own.
    """
    if limit is not None and limit > spec.max_model_len:
        raise ConfigError(
            f"max_model_len={limit} is beyond the model's own limit of {spec.max_model_len}"
        )
    return limit or spec.max_model_len


def resolve_page_size(page_size: int | None, block_length: int | None) -> int:
    """Rows of a page; a multiple of the block length of a block-causal model.

    A sealed page never changes, so its last row must be the last of a block.

    Args:
        page_size: As users gave it; None takes the first size of at least 32 that suits.
        block_length: Of a block-causal model; None if it is bidirectional.

    Raises:
        ConfigError: If the size asked for does not suit; names some that do.
    """
    block = block_length or 1
    if page_size is None:
        return -(-PAGE_SIZE // block) * block
    if page_size % block:
        below = page_size // block * block
        sizes = [size for size in (below, below + block) if size]
        raise ConfigError(
            f"page_size={page_size} does not suit a model whose blocks have {block} tokens, "
            f"because pages must end where blocks end; take a multiple of {block}, such as "
            f"{' or '.join(map(str, sizes))}"
        )
    return page_size


def spec_page_bytes(spec: ModelSpec, page_size: int, dtype: torch.dtype) -> int:
    """Memory of one page of a model's keys and values."""
    return spec.kv_values_per_row * page_size * dtype.itemsize
