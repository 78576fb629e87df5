"""What a request leaves to others: block length, cache policy, and how often to probe that."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.params import SamplingParams

DEFAULT_BLOCK_LENGTH: Final = 32
"""For bidirectional models, which take any; the usual one of LLaDA and of the cache papers."""

ISOLATED_PROBE_RATE: Final = 0.05
"""An isolated prompt is no model's training, so its outputs say by how much it matters."""


def resolve_params(params: SamplingParams, spec: ModelSpec) -> SamplingParams:
    """``params`` with a block length, the name of a cache policy, and a rate of probes.

    Raises:
        RequestError: If blocks of the length asked for do not fit into those of a block-causal
            model's mask.
    """
    block_length = params.block_length
    if block_length is None:
        block_length = spec.sub_block_length or spec.block_length or DEFAULT_BLOCK_LENGTH
    if spec.attention_kind == "block_causal":
        assert spec.block_length is not None
        if spec.block_length % block_length:
            raise RequestError(
                f"block_length={block_length}, but this model's attention has blocks of "
                f"{spec.block_length}; leave block_length out, or take a divisor of it"
            )
    cache = params.cache
    if cache == "auto":
        cache = "dual" if spec.mask_block is None else "block_causal"
    rate = params.cache_probe_rate
    if rate is None:
        rate = ISOLATED_PROBE_RATE if params.cache_args.get("isolate_prompt") is True else 0.0
    return replace(params, cache=cache, block_length=block_length, cache_probe_rate=rate)
