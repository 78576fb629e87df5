"""What the server adds to the engine, with 16 requests at once.

The same requests go to one engine in four ways: ``LLM.generate`` in one call, ``AsyncLLM`` from 16
tasks, and HTTP from 16 connections of another process, whole answers and streams. Outputs are
compared before anything is timed. Each round has every way once, each round begins with another
one, and what a way loses is taken within its round, so that all meet the same disturbances. The
engine has one thread, which leaves the client a core of its own where there are two.

By default with a random model of about 50 M parameters, of which a core computes 1,000 rows a
second: four tokens a step and two short blocks keep a round short. That favours nobody but
the bare engine, as a request costs the server the same however long it runs. A smaller model makes
the server's share larger still, and what it costs per request visible:

    python -m benchmarks.bench_server
    python -m benchmarks.bench_server --model tiny-llada --requests 256 --output FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache_models import write_models
from benchmarks.harness import summary, write_result
from benchmarks.http_client import Connection
from starr_engine import LLM, AsyncLLM, SamplingParams
from starr_engine.serve.app import make_app
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.server import Listening, Server, bind

WAYS = ("llm", "async_llm", "http", "http_stream")
CONCURRENCY = 16
_PATIENCE_S = 300.0
"""For a run over HTTP, before something is taken for broken."""

FIELDS: dict[str, Any] = {
    "max_tokens": 32, "block_length": 16, "remasking": "low_confidence",
    "remasking_args": {"tokens_per_step": 4}, "cache": "dual", "ignore_eos": True,
}  # fmt: skip
Prompts = Sequence[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All requests once, by one way."""

    wall_s: float
    cpu_s: float
    """Of engine and server, without the client: other load on the machine hardly changes it."""

    client_cpu_s: float
    """Of the process that sends and reads; 0 where that is the engine's."""

    num_tokens: int


async def in_turns(prompts: Prompts, call: Callable[[list[int]], Awaitable[None]]) -> None:
    """Call for every prompt, from so many tasks as requests run at once."""
    waiting = iter(prompts)

    async def work() -> None:
        for prompt in waiting:
            await call(prompt)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def over_http(port: int, prompts: Prompts, *, stream: bool) -> tuple[float, float, int]:
    """Seconds and seconds of processor for all prompts, and the tokens that the server counted."""
    tokens = 0
    waiting = iter(prompts)

    async def work(connection: Connection) -> None:
        nonlocal tokens
        for prompt in waiting:
            body = FIELDS | {"prompt": prompt}
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            status, headers = await connection.request("/v1/completions", body)
            assert status == 200, await connection.content(headers)
            if stream:
                *_, usage, _ = b"".join([each async for each in connection.chunks()]).split(
                    b"\n\n"
                )[:-1]
                counted = json.loads(usage.removeprefix(b"data: "))["usage"]
            else:
                counted = json.loads(await connection.content(headers))["usage"]
            tokens += counted["completion_tokens"]

    connections = [await Connection(port).__aenter__() for _ in range(CONCURRENCY)]
    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(work, connections))
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    for connection in connections:
        await connection.__aexit__(None, None, None)
    return wall_s, cpu_s, tokens


def client_process(pipe: Pipe, prompts: Prompts) -> None:
    """Runs what it is told, ``(port, stream)``, until it is told None."""
    while (told := pipe.recv()) is not None:
        port, stream = told
        pipe.send(asyncio.run(over_http(port, prompts, stream=stream)))


class Ways:
    """The four ways to one model.

    Args:
        model: Name or folder.
        prompts: Token ids.
        threads: Of the engine.
    """

    def __init__(self, model: str, prompts: Prompts, threads: int) -> None:
        options: dict[str, Any] = {
            "device": "cpu", "dtype": "float32", "max_num_requests": CONCURRENCY,
            "canvas_cache": 0, "num_threads": threads,
        }  # fmt: skip
        self._prompts = prompts
        self._params = SamplingParams(**FIELDS)
        self._blocking = LLM(model, **options)
        self._engine = AsyncLLM(model, **options)
        listening = Listening(port=0)
        self._bound = bind(listening)
        self._port = self._bound.getsockname()[1]
        self._server = Server(make_app(self._engine, ServeConfig(served_model="bench")), listening)
        self._thread = threading.Thread(target=self._server.run, args=([self._bound],))
        self._thread.start()
        self._pipe, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self._client = spawn.Process(target=client_process, args=(theirs, prompts))
        self._client.start()

    def run(self, name: str) -> Run:
        """All requests once, by the way of this name."""
        before = time.process_time()
        wall_s, client_cpu_s, num_tokens = getattr(self, f"_{name}")()
        return Run(
            wall_s=wall_s,
            cpu_s=time.process_time() - before,
            client_cpu_s=client_cpu_s,
            num_tokens=num_tokens,
        )

    def _llm(self) -> tuple[float, float, int]:
        started = time.perf_counter()
        outputs = self._blocking.generate(
            [{"prompt_token_ids": prompt} for prompt in self._prompts], self._params
        )
        elapsed = time.perf_counter() - started
        return elapsed, 0.0, sum(len(each.token_ids) for each in outputs)

    def _async_llm(self) -> tuple[float, float, int]:
        tokens = 0

        async def call(prompt: list[int]) -> None:
            nonlocal tokens
            output = await self._engine.generate({"prompt_token_ids": prompt}, self._params)
            tokens += len(output.token_ids)

        started = time.perf_counter()
        asyncio.run(in_turns(self._prompts, call))
        return time.perf_counter() - started, 0.0, tokens

    def _http(self) -> tuple[float, float, int]:
        return self._over_http(stream=False)

    def _http_stream(self) -> tuple[float, float, int]:
        return self._over_http(stream=True)

    def _over_http(self, *, stream: bool) -> tuple[float, float, int]:
        self._pipe.send((self._port, stream))
        if not self._pipe.poll(_PATIENCE_S):
            raise TimeoutError(f"the client has not come back after {_PATIENCE_S:g} s")
        result: tuple[float, float, int] = self._pipe.recv()
        return result

    def close(self) -> None:
        """End the processes and threads."""
        self._pipe.send(None)
        self._client.join()
        self._server.should_exit = True
        self._thread.join()
        self._bound.close()
        self._engine.close()


def measure(ways: Ways, rounds: int) -> list[dict[str, Any]]:
    """One row per way."""
    expected = {name: ways.run(name).num_tokens for name in WAYS}
    assert len(set(expected.values())) == 1, f"tokens differ: {expected}"
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    for number in range(rounds):
        first = number % len(WAYS)
        for name in WAYS[first:] + WAYS[:first]:
            runs[name].append(ways.run(name))
    rows = [_row(name, taken, runs["llm"]) for name, taken in runs.items()]
    for row in rows:
        low, high = row["loss_range"]
        print(
            f"{row['way']:12} {row['tokens_per_s']:9.1f} tokens/s, lost "
            f"{row['loss_of_tokens_per_s']:+.1%} [{low:+.1%}, {high:+.1%}], CPU "
            f"{row['median_cpu_s']:.2f} s ({row['more_cpu']:+.1%}), client "
            f"{row['median_client_cpu_s']:.2f} s"
        )
    return rows


def _row(name: str, taken: list[Run], bare: list[Run]) -> dict[str, Any]:
    """Medians, and ratios to the bare engine within each round."""
    walls = [run.wall_s for run in taken]
    pairs = list(zip(taken, bare, strict=True))
    losses = [1 - llm.wall_s / run.wall_s for run, llm in pairs]
    timing = summary(walls)
    return {
        "way": name,
        "tokens_per_s": taken[0].num_tokens / timing["median_s"],
        "loss_of_tokens_per_s": statistics.median(losses),
        # Of six rounds, this covers the median of all rounds with 97 %.
        "loss_range": [min(losses), max(losses)],
        "losses": losses,
        "more_cpu": statistics.median(run.cpu_s / llm.cpu_s - 1 for run, llm in pairs),
        "median_cpu_s": statistics.median(run.cpu_s for run in taken),
        "median_client_cpu_s": statistics.median(run.client_cpu_s for run in taken),
        "samples_s": walls,
        "cpu_s": [run.cpu_s for run in taken],
    } | timing


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="default: random weights, 50 M parameters")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt-len", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=6, help="rounds")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    load_average = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            sizes = {"width": 768, "layers": 6, "vocab": 8192, "length": 512, "block": 32}
            model = str(write_models(Path(folder), **sizes)["bidirectional"])
        # Ids 4 .. 99 are ordinary tokens of every model used here.
        ids = np.random.default_rng(0).integers(4, 100, (args.requests, args.prompt_len)).tolist()
        with closing(Ways(model, ids, args.threads)) as ways:
            rows = measure(ways, args.repeats)
    setting = FIELDS | {
        "model": args.model or "random, width 768, 6 layers", "requests": args.requests,
        "prompt_len": args.prompt_len, "concurrency": CONCURRENCY, "threads": args.threads,
        "repeats": args.repeats,
    }  # fmt: skip
    found = {"setting": setting, "load_average": load_average, "rows": rows}
    write_result("server", found, args.output)


if __name__ == "__main__":
    main()
