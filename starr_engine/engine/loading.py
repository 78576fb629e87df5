"""From settings to the parts of an engine: model, pages, tokenizer, backend."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from starr_engine._core import PagePool
from starr_engine.attention.base import AttentionBackend, AttentionShape
from starr_engine.attention.select import make_backend
from starr_engine.cache.pool import KVPool, bytes_per_page
from starr_engine.config import Dtype, EngineConfig
from starr_engine.errors import CapacityError, ConfigError
from starr_engine.models.base import DiffusionModel, ModelSpec
from starr_engine.models.loader import load_model, resolve_model
from starr_engine.tokenization import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """Everything an engine is made of, with every ``auto`` of its settings replaced."""

    config: EngineConfig
    device: torch.device
    model: DiffusionModel
    tokenizer: Tokenizer | None
    page_pool: PagePool
    kv_pool: KVPool
    backend: AttentionBackend


def load(config: EngineConfig) -> LoadedEngine:
    """Load the model and size the pool.

    Raises:
        ConfigError: If the model, device, dtype or backend cannot be used.
        CapacityError: If not even one page fits into ``kv_memory_bytes``, or the pool does not
            fit into the machine's memory.
    """
    device = resolve_device(config.device)
    dtype_name = resolve_dtype(config.dtype, device)
    dtype: torch.dtype = getattr(torch, dtype_name)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    folder = resolve_model(config.model)
    model = load_model(folder, device, dtype, mask_block_length=config.mask_block_length)
    spec = model.spec
    config = resolve_lengths(config, spec, dtype)
    assert config.num_pages is not None
    shape = AttentionShape(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        page_size=config.page_size,
        dtype=dtype,
        device=device,
    )
    backend = make_backend(config.attention_backend, shape)
    kv_pool = _make_kv_pool(config, spec, dtype, device)
    has_tokenizer = (folder / "tokenizer.json").is_file()
    return LoadedEngine(
        config=replace(
            config,
            device=str(device),
            dtype=dtype_name,
            attention_backend=backend.name,
        ),
        device=device,
        model=model,
        tokenizer=Tokenizer.from_folder(folder, spec.mask_token_id) if has_tokenizer else None,
        page_pool=PagePool(config.num_pages, config.page_size),
        kv_pool=kv_pool,
        backend=backend,
    )


def _make_kv_pool(
    config: EngineConfig, spec: ModelSpec, dtype: torch.dtype, device: torch.device
) -> KVPool:
    assert config.num_pages is not None
    try:
        return KVPool(
            num_layers=spec.num_layers,
            num_pages=config.num_pages,
            page_size=config.page_size,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=dtype,
            device=device,
        )
    except RuntimeError as error:  # torch's, on every device: no memory, or a size beyond 64 bits
        raise CapacityError(
            f"a pool of {config.num_pages} pages of {config.page_size} rows does not fit into the "
            f"memory of {device}; lower num_pages or kv_memory_bytes"
        ) from error


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


def resolve_lengths(config: EngineConfig, spec: ModelSpec, dtype: torch.dtype) -> EngineConfig:
    """Replace unset lengths and pages by what the model allows and the memory holds.

    Raises:
        ConfigError: If ``max_model_len`` is beyond the model's own limit.
        CapacityError: If ``num_pages`` is not set and ``kv_memory_bytes`` holds no page.
    """
    limit = config.max_model_len or spec.max_model_len
    if limit > spec.max_model_len:
        raise ConfigError(
            f"max_model_len={limit} is beyond the model's own limit of {spec.max_model_len}"
        )
    page_bytes = bytes_per_page(
        num_layers=spec.num_layers,
        page_size=config.page_size,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        dtype=dtype,
    )
    affordable = config.kv_memory_bytes // page_bytes
    wanted = config.max_num_requests * -(-limit // config.page_size)
    # Page 0 is reserved: padding rows write there.
    num_pages = config.num_pages or min(wanted, affordable) + 1
    if num_pages < 2:
        raise CapacityError(
            f"kv_memory_bytes={config.kv_memory_bytes} holds no page of {page_bytes} bytes "
            f"({config.page_size} rows); raise it, or lower page_size"
        )
    return replace(config, max_model_len=limit, num_pages=num_pages)
