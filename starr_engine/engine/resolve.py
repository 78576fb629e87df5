"""What a request leaves to the model: its block length and its cache policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.params import SamplingParams

DEFAULT_BLOCK_LENGTH: Final = 32
"""For bidirectional models, which take any; the usual one of LLaDA and of the cache papers."""


def resolve_params(params: SamplingParams, spec: ModelSpec) -> SamplingParams:
    """``params`` with a block length and the name of a cache policy.

    Raises:
        RequestError: If the block length asked for is not that of a block-causal model.
    """
    block_length = params.block_length
    if block_length is None:
        block_length = spec.block_length or DEFAULT_BLOCK_LENGTH
    if spec.block_length is not None and block_length != spec.block_length:
        raise RequestError(
            f"block_length={block_length}, but this model's attention has blocks of "
            f"{spec.block_length}; leave block_length out"
        )
    cache = params.cache
    if cache == "auto":
        cache = "dual" if spec.block_length is None else "block_causal"
    if cache == params.cache and block_length == params.block_length:
        return params
    return replace(params, cache=cache, block_length=block_length)
