"""What several engines behind one server cost, and what a dead one costs.

    python -m benchmarks.bench_replicas [--repeats 5] [--parts events overhead death --output FILE]

* ``events``: how fast events of 16 requests, made for nothing, come out of a Ray Serve replica,
  and what one costs on both sides: from a stream per request, as ``distributed.replica`` sends
  them, and from one stream in which each message has those of a step of all requests.
* ``overhead``: the same requests, 16 at once, to ``AsyncLLM`` in this process and to one replica,
  in turns, each with one thread, on a random model of width 512 with 4 layers. Tokens are compared,
  and the loss is taken within each turn.
* ``death``: 16 streams on two replicas of tiny-sdar, one of which is killed when half of all blocks
  are there: seconds for all streams and the longest silence of one, with and without the death;
  seconds until there are two again; streams with other tokens than without it.

A part that takes longer than ``--limit`` seconds is broken: the process writes where each of its
threads stands and ends with status 1, and Ray's processes end with it.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.cache_models import write_models
from benchmarks.harness import summary, write_result
from starr_engine import AsyncLLM, SamplingParams
from starr_engine.async_llm import AsyncFront
from starr_engine.config import EngineConfig
from starr_engine.distributed import Replicas
from starr_engine.distributed.application import serve_replicas
from starr_engine.distributed.replicated import ReplicatedLLM
from starr_engine.outputs import BlockOutput

STREAMS = 16
EVENTS = 250
OVERHEAD = SamplingParams(
    max_tokens=32,
    block_length=16,
    remasking="low_confidence",
    remasking_args={"tokens_per_step": 4},
    cache="dual",
    ignore_eos=True,
)
DEATH = SamplingParams(max_tokens=256, remasking="low_confidence", ignore_eos=True)


def event(name: str) -> BlockOutput:
    """Of a usual size."""
    return BlockOutput(
        request_id=name,
        block_index=0,
        token_ids=tuple(range(32)),
        text="word " * 32,
        num_forwards=1,
    )


class Source:
    """Makes events for nothing, a step of all requests at a time."""

    async def stream(self, key: int) -> AsyncGenerator[list[BlockOutput], None]:
        """The events of one request."""
        for _ in range(EVENTS):
            yield [event(str(key))]
            await asyncio.sleep(0)

    async def steps(self) -> AsyncGenerator[list[BlockOutput], None]:
        """The events of all requests."""
        for _ in range(EVENTS):
            yield [event(str(key)) for key in range(STREAMS)]
            await asyncio.sleep(0)

    async def cpu_s(self) -> float:
        """Seconds of all its threads."""
        return time.process_time()


async def by_request(handle: Any) -> int:
    """Events that came."""

    async def read(key: int) -> int:
        return sum([len(each) async for each in handle.stream.remote(key)])

    return sum(await asyncio.gather(*map(read, range(STREAMS))))


async def by_step(handle: Any) -> int:
    """Events that came."""
    return sum([len(each) async for each in handle.steps.remote()])


def measure_events(repeats: int) -> dict[str, Any]:
    """Events per second of each way, and the processor time of one."""
    from ray import serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    try:
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(max_ongoing_requests=1000)(Source)
        handle = serve.run(deployment.bind(), route_prefix=None)
        streams = handle.options(stream=True)
        ways: dict[str, Callable[[Any], Awaitable[int]]] = {
            "by_request": by_request, "by_step": by_step,
        }  # fmt: skip
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}

        async def run() -> None:
            for _ in range(repeats + 1):
                for name, way in ways.items():
                    there, here = await handle.cpu_s.remote(), time.process_time()
                    started = time.perf_counter()
                    assert await way(streams) == STREAMS * EVENTS
                    wall_s = time.perf_counter() - started
                    here = time.process_time() - here
                    rows[name].append((wall_s, await handle.cpu_s.remote() - there, here))

        asyncio.run(run())
        serve.shutdown()
    finally:
        ray.shutdown()
    found = {}
    for name, each in rows.items():
        walls, there, here = map(list, zip(*each[1:], strict=True))  # the first is a warm-up
        found[name] = {
            "events_per_s": STREAMS * EVENTS / summary(walls)["median_s"],
            "replica_cpu_s_per_event": summary(there)["median_s"] / STREAMS / EVENTS,
            "front_cpu_s_per_event": summary(here)["median_s"] / STREAMS / EVENTS,
            "samples_s": walls,
        }
    return found


async def in_turns(engine: AsyncFront, prompts: list[list[int]]) -> tuple[float, list[Any]]:
    """Seconds for all prompts from 16 tasks, and their tokens."""
    waiting = iter(enumerate(prompts))
    tokens: list[tuple[int, ...]] = [()] * len(prompts)

    async def work() -> None:
        for number, prompt in waiting:
            output = await engine.generate({"prompt_token_ids": prompt}, OVERHEAD)
            tokens[number] = output.token_ids

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(STREAMS)))
    return time.perf_counter() - started, tokens


def measure_overhead(folder: Path, repeats: int) -> dict[str, Any]:
    """Tokens per second of an engine here and of one replica."""
    sizes = {"width": 512, "layers": 4, "vocab": 8192, "length": 512, "block": 32}
    model = str(write_models(folder, **sizes)["bidirectional"])
    config: dict[str, Any] = {
        "model": model, "device": "cpu", "canvas_cache": 0, "num_threads": 1,
    }  # fmt: skip
    prompts = np.random.default_rng(0).integers(4, 100, (32, 48)).tolist()
    replicas = Replicas(count=1, cpus_per_replica=1)
    with (
        closing(AsyncLLM(**config)) as here,
        serve_replicas(EngineConfig(**config), replicas) as there,
    ):
        engines: dict[str, AsyncFront] = {"async_llm": here, "one_replica": there}
        samples: dict[str, list[float]] = {name: [] for name in engines}
        outputs = [asyncio.run(in_turns(engine, prompts))[1] for engine in engines.values()]
        assert outputs[0] == outputs[1], "tokens differ"
        for number in range(repeats):
            # Each turn begins with the other one.
            for name in (*engines,)[:: -1 if number % 2 else 1]:
                samples[name].append(asyncio.run(in_turns(engines[name], prompts))[0])
    tokens = sum(map(len, outputs[0]))
    losses = [
        1 - alone / one
        for alone, one in zip(samples["async_llm"], samples["one_replica"], strict=True)
    ]
    return {
        "tokens_per_s": {
            name: tokens / summary(each)["median_s"] for name, each in samples.items()
        },
        "loss_of_tokens_per_s": statistics.median(losses),
        "loss_range": [min(losses), max(losses)],
        "samples_s": samples,
    }


async def streams(engine: ReplicatedLLM, *, kill: bool) -> dict[str, Any]:
    """Longest silences, tokens, and how long a dead replica was missing."""
    half_way, num_blocks = asyncio.Event(), 0
    half = STREAMS * DEATH.max_tokens // (engine.spec.block_length or 1) // 2

    async def read(number: int) -> tuple[float, list[int]]:
        nonlocal num_blocks
        last, longest = time.perf_counter(), 0.0
        tokens: list[int] = []
        async for block in engine.stream(f"Sort: {number} 5 3 9", DEATH):
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            if isinstance(block, BlockOutput):
                tokens += block.token_ids
                num_blocks += 1
                if num_blocks == half:
                    half_way.set()
        return longest, tokens

    started = time.perf_counter()
    reading = [asyncio.create_task(read(number)) for number in range(STREAMS)]
    await half_way.wait()
    missing = None
    if kill:
        doomed = (await engine.reports())[0]
        os.kill(doomed.process_id, signal.SIGKILL)
        missing = asyncio.create_task(until_replaced(engine, doomed.name))
    found = await asyncio.gather(*reading)
    wall_s = time.perf_counter() - started
    return {
        "wall_s": wall_s,
        "longest_silence_s": max(silence for silence, _ in found),
        "tokens": [tokens for _, tokens in found],
        "until_replaced_s": await missing if missing else 0.0,
    }


async def until_replaced(engine: ReplicatedLLM, name: str = "") -> float:
    """Seconds until two replicas are ready, none of them the named one."""
    started = time.perf_counter()
    while True:
        names = [each.name for each in await engine.reports()]
        if len(names) == 2 and name not in names:
            return time.perf_counter() - started
        await asyncio.sleep(0.05)


def measure_death(repeats: int) -> dict[str, Any]:
    """Silences with and without a death, and what was lost."""
    rows = []
    config, two = (
        EngineConfig(model="tiny-sdar", device="cpu"),
        Replicas(count=2, cpus_per_replica=1),
    )
    with serve_replicas(config, two) as engine:
        asyncio.run(until_replaced(engine))
        for _ in range(repeats):
            calm = asyncio.run(streams(engine, kill=False))
            hit = asyncio.run(streams(engine, kill=True))
            pairs = zip(calm.pop("tokens"), hit.pop("tokens"), strict=True)
            rows.append(
                {"calm": calm, "hit": hit, "other_tokens": sum(one != two for one, two in pairs)}
            )
        state = asyncio.run(engine.fleet())
    return {"streams": STREAMS, "rows": rows, "reruns": state.num_reruns}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("events", "overhead", "death")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--limit", type=float, default=200.0, help="seconds for each part")
    args = parser.parse_args()
    if args.output is None and set(args.parts) != set(parts):
        parser.error("the committed result has all parts; give --output for some of them")
    found: dict[str, Any] = {"load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "events": lambda: measure_events(args.repeats),
            "overhead": lambda: measure_overhead(Path(folder), args.repeats),
            "death": lambda: measure_death(args.repeats),
        }
        for part in args.parts:
            faulthandler.dump_traceback_later(args.limit, exit=True)
            started = time.perf_counter()
            found[part] = measures[part]()
            faulthandler.cancel_dump_traceback_later()
            print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    write_result("replicas", found, args.output)


if __name__ == "__main__":
    main()
