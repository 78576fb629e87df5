"""What the server adds to the engine, with 16 requests at once.

The same requests go to one engine in four ways, in turns, so that all meet the same disturbances:
``LLM.generate`` in one call, ``AsyncLLM`` from 16 tasks, and HTTP from 16 connections of another
process, whole answers and streams. Outputs are compared before anything is timed. By default with
a random model of about 50 M parameters; a smaller one makes the server's share larger, see
``--model tiny-llada``.

    python -m benchmarks.bench_server [--model tiny-llada] [--requests 64] [--repeats 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
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

CONCURRENCY = 16
FIELDS: dict[str, Any] = {
    "max_tokens": 64, "block_length": 32, "remasking": "low_confidence", "cache": "dual",
    "ignore_eos": True,
}  # fmt: skip
Prompts = Sequence[list[int]]


async def in_turns(prompts: Prompts, call: Callable[[list[int]], Awaitable[None]]) -> None:
    """Call for every prompt, from so many tasks as requests run at once."""
    waiting = iter(prompts)

    async def work() -> None:
        for prompt in waiting:
            await call(prompt)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def over_http(port: int, prompts: Prompts, *, stream: bool) -> tuple[float, int]:
    """Seconds for all prompts, and the generated tokens that the server has counted."""
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
    started = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    elapsed = time.perf_counter() - started
    for connection in connections:
        await connection.__aexit__(None, None, None)
    return elapsed, tokens


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
        threads: Of the engine; None leaves torch's choice.
    """

    def __init__(self, model: str, prompts: Prompts, threads: int | None) -> None:
        options: dict[str, Any] = {
            "device": "cpu", "dtype": "float32", "max_num_requests": CONCURRENCY,
            "canvas_cache": 0, "num_threads": threads,
        }  # fmt: skip
        self._prompts = prompts
        self._params = SamplingParams(**FIELDS)
        self._llm = LLM(model, **options)
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

    def llm(self) -> tuple[float, int]:
        """Seconds and tokens of one blocking call."""
        started = time.perf_counter()
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in self._prompts], self._params
        )
        return time.perf_counter() - started, sum(len(each.token_ids) for each in outputs)

    def async_llm(self) -> tuple[float, int]:
        """Of concurrent calls."""
        tokens = 0

        async def call(prompt: list[int]) -> None:
            nonlocal tokens
            output = await self._engine.generate({"prompt_token_ids": prompt}, self._params)
            tokens += len(output.token_ids)

        started = time.perf_counter()
        asyncio.run(in_turns(self._prompts, call))
        return time.perf_counter() - started, tokens

    def http(self) -> tuple[float, int]:
        """Of whole answers over HTTP."""
        return self._over_http(stream=False)

    def http_stream(self) -> tuple[float, int]:
        """Of streams over HTTP."""
        return self._over_http(stream=True)

    def _over_http(self, *, stream: bool) -> tuple[float, int]:
        self._pipe.send((self._port, stream))
        result: tuple[float, int] = self._pipe.recv()
        return result

    def close(self) -> None:
        """End the processes and threads."""
        self._pipe.send(None)
        self._client.join()
        self._server.should_exit = True
        self._thread.join()
        self._bound.close()
        self._engine.close()


def measure(ways: Ways, repeats: int) -> list[dict[str, Any]]:
    """One row per way."""
    named = {name: getattr(ways, name) for name in ("llm", "async_llm", "http", "http_stream")}
    expected = {name: run()[1] for name, run in named.items()}
    assert len(set(expected.values())) == 1, f"tokens differ: {expected}"
    samples: dict[str, list[float]] = {name: [] for name in named}
    cpu: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(repeats):
        for name, run in named.items():
            before = time.process_time()
            samples[name].append(run()[0])
            cpu[name].append(time.process_time() - before)
    bare = summary(samples["llm"])["median_s"]
    rows = []
    for name, taken in samples.items():
        median = summary(taken)["median_s"]
        rows.append(
            {
                "way": name,
                "tokens_per_s": expected[name] / median,
                "loss_of_tokens_per_s": 1 - bare / median,
                "samples_s": taken,
                # Of engine and server, without the client: other load on the machine hardly
                # changes it.
                "cpu_s": cpu[name],
                "median_cpu_s": statistics.median(cpu[name]),
            }
            | summary(taken)
        )
        print(
            f"{name:12} {expected[name] / median:9.1f} tokens/s  "
            f"{bare / median - 1:+.1%} against one call of LLM.generate  "
            f"{statistics.median(cpu[name]):.2f} s of CPU"
        )
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="default: random weights, 50 M parameters")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-len", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
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
    write_result("server", {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
