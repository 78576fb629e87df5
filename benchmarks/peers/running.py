"""Prompts through a peer, batch by batch, or through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks.peers.asked import Asked, Generated, Prompt, Run
from benchmarks.peers.dense import Counts
from starr_engine import SamplingParams
from starr_engine.bench.load import Load, LoadRequest
from starr_engine.bench.run import run_load
from starr_engine.engine.engine import Engine
from starr_engine.params import Args


class Counted(Protocol):
    """A forward that counts what it computes."""

    counts: Counts


Decode = Callable[[Sequence[Prompt], Asked], Sequence[Sequence[int]]]
"""One batch: prompts -> what came behind each."""


def run_peer(
    forward: Counted, decode: Decode, prompts: Sequence[Prompt], asked: Asked, batch: int
) -> Run:
    """Decode in batches of ``batch``, one after the other; a batch ends as one.

    Args:
        forward: What ``decode`` computes with, whatever way it reaches it.
        decode: Of one batch.
        prompts: In order.
        asked: Of all of them.
        batch: Prompts decoded together.
    """
    outputs: list[Generated] = []
    forwards, begin = 0, time.perf_counter()
    for at in range(0, len(prompts), batch):
        together = prompts[at : at + batch]
        forward.counts = Counts()
        started = time.perf_counter()
        found = decode(together, asked)
        seconds = time.perf_counter() - started
        counts = forward.counts
        forwards += counts.forwards
        outputs += [
            Generated(
                token_ids=asked.useful(tokens[: prompt.max_tokens]),
                nfe=counts.forwards,
                rows=counts.rows // len(together),
                seconds=seconds,
            )
            for prompt, tokens in zip(together, found, strict=True)
        ]
    return Run(outputs=tuple(outputs), forwards=forwards, seconds=time.perf_counter() - begin)


def run_engine(
    engine: Engine,
    prompts: Sequence[Prompt],
    asked: Asked,
    batch: int,
    *,
    cache: str,
    remasking: str,
    remasking_args: Args,
) -> Run:
    """Decode with ``batch`` requests at any time; the next one comes when one ends."""
    requests = tuple(
        LoadRequest(
            token_ids=prompt.token_ids,
            params=SamplingParams(
                max_tokens=prompt.max_tokens,
                block_length=asked.block_length,
                cache=cache,
                remasking=remasking,
                remasking_args=remasking_args,
                ignore_eos=not asked.early_stop,
            ),
        )
        for prompt in prompts
    )
    found = run_load(engine, Load(requests=requests, concurrency=batch))
    outputs = []
    for each in found.requests:
        output = each.output
        assert output is not None
        outputs.append(
            Generated(
                token_ids=asked.useful(output.token_ids),
                nfe=output.nfe,
                rows=output.computed_rows,
                seconds=each.end_s - each.due_s,
            )
        )
    return Run(outputs=tuple(outputs), forwards=found.num_steps, seconds=found.seconds)
