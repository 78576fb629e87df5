"""Many streams at once, with clients that go in the middle: errors, memory, time to first block.

The server runs as its own process, as `starr-engine serve` starts it. Each of the clients asks,
reads its stream to the end or, with the probability ``--gone``, closes the connection after a
random number of events, and asks again. Failed is everything else: another status, a stream that
ends without ``[DONE]``, an error event.

    python -m benchmarks.bench_server_load [--clients 200] [--seconds 120] [--gone 0.3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import write_result
from benchmarks.http_client import Connection, get

PROMPTS = (
    "Put in falling order: 2, 25, 18, 73, 60",
    "Write as JSON: In Delhi there is a pilot named Sara, 61 years old.",
    "2 + 3 =",
)


@dataclass
class Seen:
    """What the clients have met."""

    ends: Counter[str] = field(default_factory=Counter)
    first_block_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    """Resident memory of the server, once a second."""


async def client(port: int, number: int, stop_at: float, gone: float, seen: Seen) -> None:
    """One client, until the time is over."""
    draw = random.Random(number)
    while time.perf_counter() < stop_at:
        body = {
            "prompt": draw.choice(PROMPTS), "max_tokens": draw.choice((32, 64, 128)),
            "block_length": 16, "stream": True, "provisional": draw.random() < 0.2,
            "temperature": draw.choice((0.0, 0.7)),
            "remasking": draw.choice(("starr", "threshold", "low_confidence")),
            "cache": draw.choice(("auto", "none", "prefix")), "ignore_eos": draw.random() < 0.5,
        }  # fmt: skip
        leave_after = draw.randrange(4) if draw.random() < gone else None
        try:
            seen.ends[await one_stream(port, body, leave_after, seen)] += 1
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.ends[f"failed: {type(error).__name__}"] += 1


async def one_stream(port: int, body: dict[str, Any], leave_after: int | None, seen: Seen) -> str:
    """How one request ended."""
    started = time.perf_counter()
    async with Connection(port) as connection:
        status, headers = await connection.request("/v1/completions", body)
        if status != 200:
            return f"failed: {status} {(await connection.content(headers))[:200]!r}"
        num_events, is_first, last = 0, True, b""
        async for last in connection.chunks():
            if is_first and b"block_index" in last and not last.startswith(b"event:"):
                seen.first_block_s.append(time.perf_counter() - started)
                is_first = False
            if leave_after is not None and num_events >= leave_after:
                return "left by the client"
            num_events += 1
    return "complete" if last.endswith(b"[DONE]\n\n") else f"failed: {last[:200]!r}"


async def watch_memory(process: psutil.Process, stop_at: float, seen: Seen) -> None:
    """Note the server's memory."""
    while time.perf_counter() < stop_at:
        seen.memory_mib.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(1)


async def load(port: int, process: psutil.Process, args: argparse.Namespace) -> dict[str, Any]:
    """Run all clients, and say what they have met."""
    seen = Seen()
    started = time.perf_counter()
    stop_at = started + args.seconds
    watch = watch_memory(process, stop_at, seen)
    clients = (client(port, each, stop_at, args.gone, seen) for each in range(args.clients))
    await asyncio.gather(watch, *clients)
    elapsed = time.perf_counter() - started
    metrics = await until_idle(port)
    failed = {end: count for end, count in seen.ends.items() if end.startswith("failed")}
    hundredths = statistics.quantiles(seen.first_block_s, n=100)
    quarter = max(len(seen.memory_mib) // 4, 1)
    return {
        "elapsed_s": elapsed,
        "ends": dict(seen.ends),
        "num_failed": sum(failed.values()),
        "first_block_s": {"p50": hundredths[49], "p90": hundredths[89], "p99": hundredths[98]},
        # The first quarter warms up: allocators, compiled paths.
        "memory_mib": {
            "second_quarter": statistics.median(seen.memory_mib[quarter : 2 * quarter] or [0]),
            "last_quarter": statistics.median(seen.memory_mib[-quarter:]),
            "highest": max(seen.memory_mib),
            "samples": [round(each, 1) for each in seen.memory_mib],
        },
        "after": {
            name: value for name, value in metrics.items() if name.startswith("starr_engine_")
        },
    }


async def until_idle(port: int) -> dict[str, float]:
    """The metrics without labels, once no request is left; they say if pages are."""
    while True:
        text = (await get(port, "/metrics")).decode()
        metrics = {
            name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)
        }
        if metrics["starr_engine_requests_running"] + metrics["starr_engine_requests_waiting"] == 0:
            return metrics
        await asyncio.sleep(0.1)


def main() -> None:
    """Start a server, load it, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-llada")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--gone", type=float, default=0.3, help="share of streams left early")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    words = [
        sys.executable, "-m", "starr_engine", "serve", "--port", "0", "--model", args.model,
        "--batch-size", str(args.batch_size), "--canvas-cache", "0",
        "--max-requests", str(args.clients + 64),
    ]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        port = json.loads(server.stderr.readline())["port"]
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        try:
            result = asyncio.run(load(port, psutil.Process(server.pid), args))
        finally:
            server.terminate()
            exit_code = server.wait(60)
            drain.wait(10)
    result["exit_code"] = exit_code
    setting = {name: value for name, value in vars(args).items() if name != "output"}
    print(json.dumps({name: result[name] for name in ("ends", "first_block_s", "exit_code")}))
    write_result("server_load", {"setting": setting} | result, args.output)


if __name__ == "__main__":
    main()
