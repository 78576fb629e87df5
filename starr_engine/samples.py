"""Several samples of one prompt: the engine runs each as a request of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams


def split_samples(params: SamplingParams) -> tuple[SamplingParams, ...]:
    """What each of the ``n`` samples asks the engine for; ``params`` itself where ``n`` is 1."""
    if params.n == 1:
        return (params,)
    return tuple(
        replace(params, n=1, seed=sample_seed(params.seed, index)) for index in range(params.n)
    )


def sample_seed(seed: int, index: int) -> int:
    """The seed of a sample: that of the request for the first, so that it equals ``n = 1``."""
    if index == 0:
        return seed
    digest = hashlib.sha256(f"{seed}.{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # seeds lie below 2**63


def sample_id(request_id: str, index: int) -> str:
    """The id of a sample's request: "7" for the first, then "7.1", "7.2" ..."""
    return f"{request_id}.{index}" if index else request_id


def join_samples(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """The first sample's output with the others beside it."""
    first, *others = outputs
    return replace(first, other_samples=tuple(others)) if others else first
