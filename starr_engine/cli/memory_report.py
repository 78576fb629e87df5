"""What a model's cache costs and how many requests it holds, before any weight is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from starr_engine.cli.options import add_memory_options, memory_options
from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError, StarrError
from starr_engine.memory_size import parse_memory_size

if TYPE_CHECKING:
    from starr_engine.models.base import DiffusionModel

Report = Mapping[str, object]

_LENGTHS_FLAG: Final = "--request-length"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that this report follows; they mean what they mean to an engine."""
    group = parser.add_argument_group("memory of that model's KV cache")
    add_memory_options(group)
    group.add_argument(
        _LENGTHS_FLAG,
        type=int,
        nargs="+",
        metavar="TOKENS",
        help="how many requests of these lengths, prompt plus --max-tokens, fit at once (default: "
        "powers of two up to the longest request)",
    )


def check_model_is_named(args: argparse.Namespace) -> None:
    """These flags describe a model.

    Raises:
        ConfigError: If one is given without ``--model``.
    """
    unset = EngineConfig()
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in memory_options(args).items()
        if value != getattr(unset, name)
    ] + [_LENGTHS_FLAG] * (args.request_length is not None)
    if args.model is None and given:
        raise ConfigError(f"only together with --model: {', '.join(given)}")


def memory_report(model: DiffusionModel, args: argparse.Namespace) -> Report:
    """Labels of cache policies, what the budget holds of pages, and requests of several lengths.

    A budget that is a fraction is one of the memory that is free now less the model's weights.
    What dllm adds is taken beside the budget, when the first request asks for it. Of a model that
    is split, it is the memory of each rank.

    Raises:
        ConfigError: If a flag's value is out of range or does not suit the model.
    """
    import torch

    from starr_engine.cache.feature_pool import feature_bytes_per_page
    from starr_engine.engine import loading
    from starr_engine.engine.memory import free_memory, memory_budget, resolve_kv_memory
    from starr_engine.models.loading.quantization import check_quantization, expected_weight_bytes

    spec = model.spec
    config = EngineConfig.from_options(model=args.model, **memory_options(args))
    device = loading.resolve_device(config.device)
    dtype_name = loading.resolve_dtype(config.dtype, device)
    dtype: torch.dtype = getattr(torch, dtype_name)
    check_quantization(model, config.quantization, device, dtype)
    limit = loading.resolve_max_model_len(config.max_model_len, spec)
    page_size = loading.resolve_page_size(config.page_size, spec.mask_block)
    page_bytes = loading.spec_page_bytes(model.spec_here, page_size, dtype)
    num_ranks = config.tensor_parallel_size
    cache: dict[str, object] = {
        "dtype": dtype_name,
        "device": str(device),
        "page size": page_size,
        "bytes per page": page_bytes,
    }
    if spec.mask_block is None and num_ranks == 1:  # else it serves no request
        cache["bytes per page that dllm adds"] = feature_bytes_per_page(
            num_layers=spec.num_layers,
            page_size=page_size,
            hidden_size=spec.hidden_size,
            dtype=dtype,
        )
    free = 0
    wanted = resolve_kv_memory(config.kv_memory, device, is_split=num_ranks > 1)
    if isinstance(parse_memory_size("kv_memory", wanted), float):
        weights = expected_weight_bytes(model, dtype, config.quantization)
        sharing = num_ranks if device.type == "cpu" else 1  # ranks of one machine's memory
        free = max(0, free_memory(device) // sharing - weights)
        cache["bytes free beside the model"] = free
    budget = memory_budget(wanted, lambda: free)
    num_pages = budget // page_bytes
    lengths = request_lengths(args.request_length, page_size, limit)
    return {
        "cache policies for this model": cache_labels(
            spec.mask_block, exact_only=spec.needs_exact_cache, num_ranks=num_ranks
        ),
        "KV cache": cache | {"budget in bytes": budget, "pages": num_pages},
        "requests that fit at once": fitting_requests(lengths, page_size, num_pages),
    }


def request_lengths(given: Sequence[int] | None, page_size: int, limit: int) -> list[int]:
    """Those asked for, or powers of two of at least a page and the longest request.

    Raises:
        ConfigError: If one is no length of a request.
    """
    if given is None:
        powers = (1 << exponent for exponent in range(limit.bit_length()))
        return [*(power for power in powers if page_size <= power < limit), limit]
    if wrong := [length for length in given if not 1 <= length <= limit]:
        raise ConfigError(
            f"{_LENGTHS_FLAG} must be from 1 to {limit}, the longest request; got "
            f"{', '.join(map(str, wrong))}"
        )
    return list(given)


def fitting_requests(
    lengths: Sequence[int], page_size: int, num_pages: int
) -> list[dict[str, int]]:
    """Tokens of a request, its pages, and how many such requests ``num_pages`` hold."""
    return [
        {"tokens": length, "pages": pages, "requests": num_pages // pages}
        for length in lengths
        for pages in [-(-length // page_size)]
    ]


def cache_labels(
    mask_block: int | None, *, exact_only: bool = False, num_ranks: int = 1
) -> dict[str, str]:
    """What each cache policy says of its outputs, with its default arguments.

    Args:
        mask_block: See ``ModelSpec.mask_block``.
        exact_only: See ``ModelSpec.needs_exact_cache``.
        num_ranks: Over which the model is split.
    """
    from starr_engine.cache.base import CACHE_POLICIES, EXACT

    labels = {}
    for name in CACHE_POLICIES.names():
        try:
            policy = CACHE_POLICIES.create(name, {})
        except StarrError as error:  # it needs arguments, or is another package's and broken
            labels[name] = str(error)
        else:
            label = policy.label(mask_block)
            usable = not policy.refusal(mask_block) and (label == EXACT or not exact_only)
            labels[name] = label if usable else "not for this model"
            if usable and num_ranks > 1 and policy.keeps_features:
                labels[name] = "not for a split model"
    return labels
