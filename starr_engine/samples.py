"""Prompts that take several requests of the engine: ``n`` samples, or a choice of gap lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from starr_engine.errors import RequestError
from starr_engine.infilling import Candidates, TokenPrompt, choose
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams


def requests_of(
    candidates: Candidates, params: SamplingParams
) -> list[tuple[TokenPrompt, SamplingParams]]:
    """What to ask the engine for, in the order of :func:`join_requests`.

    Args:
        candidates: The prompt, in several forms if its gap has a range of lengths.
        params: As the user gave them.

    Raises:
        RequestError: If there are several forms and several samples.
    """
    if len(candidates) > 1 and params.n > 1:
        raise RequestError(
            f"n={params.n} with a range of gap lengths is not offered: which length fits is judged "
            "for one sample; give one length, or n=1 with several seeds"
        )
    return [(tried, sample) for tried in candidates for sample in split_samples(params)]


def join_requests(
    candidates: Candidates, outputs: Sequence[RequestOutput], checks: Sequence[RequestOutput]
) -> RequestOutput:
    """The output of a prompt from those of its requests.

    Args:
        candidates: Of the prompt.
        outputs: Of :func:`requests_of`, in order.
        checks: Of ``infilling.seam_checks``, in order.
    """
    if len(candidates) > 1:
        return choose(candidates, outputs, checks)
    return join_samples(outputs)


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
