"""One masked forward as a request of the engine, and many of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.offline.runner import BatchEngine
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams

K = TypeVar("K")


class ProbedEngine(BatchEngine, Protocol):
    """The part of the engine that probes use."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tokens of an answer that are masked together, behind what is always seen."""

    front: tuple[int, ...]
    """Context and earlier blocks, all clean."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A forward of a block with some of its tokens masked."""

    block: Block
    positions: tuple[int, ...]
    """Masked ones, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What the model says of the masked tokens."""

    log_likelihood: float
    """Sum of their log-probabilities, in nats, each given all that is not masked."""

    surest: int
    """Which of the masked positions, counted among them, has the most probable best token."""

    surest_is_right: bool
    """Whether that best token is the answer's."""

    forwards: int


def answer_blocks(
    context: tuple[int, ...], answer: tuple[int, ...], spec: ModelSpec
) -> list[Block]:
    """The blocks of an answer, each behind the clean ones in front of it.

    A bidirectional model has one. Those of a block-causal mask end at multiples of its length,
    counted from the first token of the context; with a causal context they are counted from the
    answer's first token, as such a model decodes.
    """
    length = spec.block_length or max(len(answer), 1)
    has_edges = spec.attention_kind == "block_causal"
    blocks, start = [], 0
    while start < len(answer):
        offset = (len(context) + start) % length if has_edges else 0
        stop = min(start + length - offset, len(answer))
        blocks.append(Block(front=(*context, *answer[:start]), tokens=answer[start:stop]))
        start = stop
    return blocks


def run_probes(
    engine: ProbedEngine,
    take: Callable[[], tuple[K, Probe] | None],
    on_result: Callable[[K, ProbeResult], None],
) -> None:
    """Run probes until there are none, the engine's batch as full as they allow.

    Args:
        engine: With no unfinished requests.
        take: Gives the next probe, under a key of the caller's; None while there is none. A result
            may bring more.
        on_result: Takes results in the order in which they come.

    Raises:
        RequestError: If one cannot run.
    """
    running: dict[str, K] = {}
    try:
        while True:
            # One that ends is replaced in the next step.
            while len(running) < 2 * engine.config.max_num_requests:
                if (taken := take()) is None:
                    break
                running[_add(engine, taken[1])] = taken[0]
            if not running:
                return
            for output in engine.step():
                if isinstance(output, RequestOutput):
                    on_result(running.pop(output.request_id), _result(output))
    finally:
        for request_id in running:
            engine.abort(request_id)


def _result(output: RequestOutput) -> ProbeResult:
    if output.error is not None:
        raise RequestError(f"an answer cannot be scored: {output.error}")
    assert output.logprobs is not None
    found = output.logprobs
    surest = max(range(len(found)), key=lambda at: found[at].top[0][1])
    return ProbeResult(
        log_likelihood=math.fsum(each.logprob for each in found),
        surest=surest,
        surest_is_right=found[surest].top[0][0] == found[surest].token_id,
        forwards=output.nfe,
    )


def _add(engine: ProbedEngine, probe: Probe) -> str:
    block, masked = probe.block, set(probe.positions)
    length = engine.spec.block_length or len(block.tokens)
    # Blocks of a block-causal model share the pages of what stands in front of them; in a
    # bidirectional one every mask changes all rows, and there is nothing to keep.
    params = SamplingParams(
        block_length=length, logprobs=1, cache="none" if engine.spec.mask_block is None else "auto"
    )
    return engine.add_request(
        list(block.front),
        params,
        template=[None if at in masked else token for at, token in enumerate(block.tokens)],
        given=[block.tokens[at] for at in probe.positions],
    )
