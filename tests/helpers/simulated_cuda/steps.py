"""An engine's steps on the simulated device, one launch and one finish at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starr_engine import RequestOutput, SamplingParams
from starr_engine.engine.engine import Engine
from tests.helpers.simulated_cuda.device import SimulatedCuda
from tests.helpers.simulated_cuda.log import Recorded


@dataclass(frozen=True, slots=True)
class Turn:
    """One call each of ``Engine.launch`` and ``Engine.finish``, and what they did."""

    num_launched: int
    launch: Recorded
    finish: Recorded
    is_ahead: bool
    """Whether a step was under way behind the one that was waited for."""

    has_finished: bool
    """Whether there was a step to wait for."""


def run_requests(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    kinds: Sequence[dict[str, Any]],
    device: SimulatedCuda,
) -> tuple[list[Turn], dict[str, RequestOutput]]:
    """Run requests to their end.

    Returns:
        Every turn, and the outputs by the request's number.
    """
    for n, (prompt, kind) in enumerate(zip(prompts, kinds, strict=True)):
        engine.add_request(prompt, SamplingParams(**kind), str(n))
    turns, outputs = [], {}
    while engine.has_unfinished:
        before = len(engine._in_flight)
        with device.log.record() as launch:
            engine.launch()
        num_launched = len(engine._in_flight) - before
        num_in_flight = len(engine._in_flight)
        with device.log.record() as finish:
            changes = engine.finish()
        turns.append(Turn(num_launched, launch, finish, num_in_flight > 1, num_in_flight > 0))
        for output in engine.outputs.collect(changes):
            if isinstance(output, RequestOutput):
                outputs[output.request_id] = output
    while engine._in_flight:
        engine.finish()
    return turns, outputs
