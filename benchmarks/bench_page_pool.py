"""Page bookkeeping: the C++ pool and tables against plain Python, and its share of an engine step.

Both managers do the same work: a pool nearly full of running requests whose prompts share
prefixes, where a few requests end and as many begin in turns. Each newcomer is admitted, as the
engine does it: its prompt is matched, and it gets pages for the rest (for which others' content is
evicted), all in one call. Then its prompt is sealed. Matching and allocating are also timed as
calls of their own, in runs of their own. Every page that either hands out is compared before
anything is timed.

The second part steps an engine with 256 running requests whose forward is a stub, and times what
is left but for the decoder: schedule with plans and prefix matching, laying out the batch, and
carrying out decisions.

    python -m benchmarks.bench_page_pool [--repeats 15] [--requests 256]
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import python_page_manager as plain
from benchmarks.harness import summary, write_result
from benchmarks.stub_executor import StubExecutor
from starr_engine import SamplingParams, _core
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, write_sdar_checkpoint

PAGE_SIZE = 32
MASK = 0
PHASES = ("admit", "match", "allocate", "seal", "free")
COMPARED = ("admit", "free")
"""What the ratio over everything counts: sealing is hashing, and both hash about alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests that fill a pool nearly to its end, so that newcomers evict."""

    prompt: int
    """Tokens of each prompt."""

    shared: int
    """How many of them are one of ``num_prefixes``."""

    rows: int
    """Of each request, prompt included."""

    num_prefixes: int
    running: int
    turn: int
    """Requests that end, and as many that begin, at a time."""

    num_pages: int
    work: int
    """Requests in all."""


WORKLOADS = (
    # 40 pages each, of which up to 16 are shared by a dozen.
    Workload(
        prompt=1_024, shared=512, rows=1_280, num_prefixes=16, running=200, turn=16,
        num_pages=5_200, work=2_000,
    ),
    # 520 pages each, of which up to 256 are shared by half a dozen.
    Workload(
        prompt=16_384, shared=8_192, rows=16_640, num_prefixes=4, running=24, turn=4,
        num_pages=8_200, work=240,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """One of the two, by the names of its parts."""

    pool: Callable[[int, int], Any]
    table: Any
    root: Any


CPP = Manager(pool=_core.PagePool, table=_core.PageTable, root=_core.root_key(b"bench"))
PYTHON = Manager(
    pool=plain.PythonPagePool, table=plain.PythonPageTable, root=plain.root_key(b"bench")
)


@dataclass(slots=True, kw_only=True)
class Measured:
    """One run over the workload."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    requests: int = 0
    pages: list[list[int]] = field(default_factory=list)
    """Of every newcomer, how many were found and then all; only if they are to be compared."""

    free_low: int = 1 << 30
    evictions: int = 0
    found: int = 0


def prompts(load: Workload, seed: int = 0) -> list[NDArray[np.int32]]:
    """[prompt] ids each, of which the first are one of the prefixes."""
    rng = np.random.default_rng(seed)
    count = load.work - load.work % load.turn
    shared = rng.integers(1, 50_000, (load.num_prefixes, load.shared), dtype=np.int32)
    own = rng.integers(1, 50_000, (count, load.prompt - load.shared), dtype=np.int32)
    return [
        np.concatenate([shared[rng.integers(load.num_prefixes)], own[at]]) for at in range(count)
    ]


def run(
    manager: Manager,
    load: Workload,
    work: list[NDArray[np.int32]],
    *,
    apart: bool = False,
    compare: bool = False,
) -> Measured:
    """Requests of ``work`` come and go; the first ones fill the pool and are not timed.

    Args:
        manager: Of the pages.
        load: What ``work`` is.
        work: [prompt] ids of each request.
        apart: Match and allocate in two calls.
        compare: Note every page handed out.
    """
    pool, root, measured = manager.pool(load.num_pages, PAGE_SIZE), manager.root, Measured()
    running: deque[Any] = deque()
    clock, rows, try_admit = time.perf_counter, load.rows, manager.table.try_admit
    for at in range(0, len(work), load.turn):
        turn = work[at : at + load.turn]
        is_timed = len(running) + len(turn) > load.running
        leaving = [running.popleft() for _ in turn] if is_timed else []
        start = clock()
        for table in leaving:
            table.release()
        freed = clock()
        found = [pool.match(root, ids) for ids in turn] if apart else []
        matched = clock()
        if apart:
            tables = [manager.table.try_create(pool, rows, pages) for pages in found]
        else:
            tables = [try_admit(pool, rows, root, ids) for ids in turn]
        allocated = clock()
        for table in tables:  # as the first forward does
            table.mark_written([(table.num_adopted * PAGE_SIZE, load.rows)])
        written = clock()
        for table, ids in zip(tables, turn, strict=True):
            table.seal_prefix(load.prompt, ids, MASK, root)
        sealed = clock()
        running.extend(tables)
        measured.free_low = min(measured.free_low, pool.num_free)
        if compare:
            measured.pages += [[table.num_adopted, *table.pages] for table in tables]
        if is_timed:
            measured.requests += len(turn)
            measured.found += sum(table.num_adopted for table in tables)
            phases = {"match": matched - freed, "allocate": allocated - matched}
            if not apart:
                phases = {
                    "admit": allocated - matched, "seal": sealed - written, "free": freed - start,
                }  # fmt: skip
            for phase, seconds in phases.items():
                measured.seconds[phase] += seconds
    stats = getattr(pool, "stats", None)
    measured.evictions = pool.num_evictions if stats is None else stats.evictions
    return measured


def compare_managers(load: Workload, repeats: int) -> dict[str, Any]:
    """Check that both give the same, then time them in turns."""
    work = prompts(load)
    for apart in (True, False):
        first, second = (run(each, load, work, apart=apart, compare=True) for each in (CPP, PYTHON))
        assert first.pages == second.pages, "the two managers must hand out the same pages"
        assert first.evictions == second.evictions
        assert first.evictions > 0, "the workload must evict"
    samples: dict[str, list[Measured]] = {"cpp": [], "python": []}
    # As timeit does: the collector's time is that of all that was ever imported.
    gc.collect()
    gc.disable()
    for _ in range(repeats):
        for side, manager in (("cpp", CPP), ("python", PYTHON)):
            measured = run(manager, load, work)
            apart_seconds = run(manager, load, work, apart=True).seconds
            for phase in ("match", "allocate"):
                measured.seconds[phase] = apart_seconds[phase]
            samples[side].append(measured)
    gc.enable()
    print(f"prompts of {load.prompt} tokens, requests of {load.rows} rows")
    rows = {}
    for name, phases in [*((each, (each,)) for each in PHASES), ("together", COMPARED)]:
        row: dict[str, Any] = {}
        for side, runs in samples.items():
            seconds = summary([sum(each.seconds[phase] for phase in phases) for each in runs])
            row[side] = seconds | {"ops_per_s": runs[0].requests / seconds["median_s"]}
            row[f"{side}_us"] = 1e6 * seconds["median_s"] / runs[0].requests
        row["ratio"] = row["python_us"] / row["cpp_us"]
        rows[name] = row
        print(
            f"{name:9} C++ {row['cpp_us']:8.2f} us  Python {row['python_us']:8.2f} us per request  "
            f"{row['ratio']:6.1f}x",
            flush=True,
        )
    return {
        "workload": asdict(load)
        | {
            "page_size": PAGE_SIZE,
            "timed_requests": first.requests,
            "pages_found": first.found,
            "evictions": first.evictions,
            "fewest_free_pages": first.free_low,
        },
        "same_pages": True,
        "rows": rows,
    }


PARTS = ("schedule", "build", "apply")


def engine_steps(folder: Path, cache: str, num_requests: int, num_steps: int) -> dict[str, Any]:
    """Seconds of each part of each step after the first, which prefills."""
    engine = Engine(
        EngineConfig(
            model=str(folder),
            device="cpu",
            dtype="float32",
            max_num_requests=num_requests,
            max_num_batched_tokens=1 << 20,
            max_model_len=512,
            canvas_cache=0,
        )
    )
    engine.executor = StubExecutor(engine.executor.model)  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    params = SamplingParams(max_tokens=256, block_length=32, cache=cache, ignore_eos=True)
    for _ in range(num_requests):
        engine.add_request(rng.integers(4, 101, 256).tolist(), params)
    clock = time.perf_counter
    samples: dict[str, list[float]] = {part: [] for part in (*PARTS, "total", "decode")}
    for step in range(num_steps + 1):
        start = clock()
        schedule = engine.scheduler.schedule()
        scheduled = clock()
        plans = engine.batcher.check(schedule)
        checked = clock()
        known = engine.decoder.prepare(plans)
        prepared = clock()
        batch = engine.executor.upload(engine.batcher.lay_out(plans, known.facts))
        built = clock()
        logits = engine.executor.forward(batch)
        forwarded = clock()
        decisions = engine.decoder.wait(engine.decoder.decide(known, batch.facts, logits))
        decided = clock()
        changes = engine.progress.apply(batch, decisions)
        applied = clock()
        engine.outputs.collect(changes)
        assert len(batch.entries) == num_requests, "all requests must run"
        if step == 0:
            continue
        parts = (
            scheduled - start,
            checked - scheduled + built - prepared,
            applied - decided,
        )
        for part, seconds in zip(PARTS, parts, strict=True):
            samples[part].append(seconds)
        samples["total"].append(sum(parts))
        samples["decode"].append(prepared - checked + decided - forwarded)
    result = {part: summary(each) for part, each in samples.items()}
    total = result["total"]["median_s"]
    print(
        f"{cache:12} {num_requests} requests: bookkeeping {1e3 * total:.2f} ms per step, "
        f"{1e6 * total / num_requests:.1f} us per request and step",
        flush=True,
    )
    return {"cache": cache, "num_requests": num_requests, "num_steps": num_steps, **result}


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--work", type=int, help="requests that come and go; default: enough")
    parser.add_argument("--requests", type=int, default=256, help="running in the engine")
    parser.add_argument("--steps", type=int, default=95, help="of the engine, two at least")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    managers = [
        compare_managers(load if args.work is None else replace(load, work=args.work), args.repeats)
        for load in WORKLOADS
    ]
    with tempfile.TemporaryDirectory() as name:
        llada = write_checkpoint(Path(name) / "llada", llada_config(max_sequence_length=512))
        config = sdar_config(max_position_embeddings=512, block_size=32)
        sdar = write_sdar_checkpoint(Path(name) / "sdar", config)
        steps = [
            engine_steps(folder, cache, args.requests, args.steps)
            for folder, cache in ((llada, "dual"), (sdar, "block_causal"))
        ]
    setting = {"repeats": args.repeats, "prompt": 256, "max_tokens": 256, "block_length": 32}
    write_result(
        "page_pool", {"setting": setting, "managers": managers, "steps": steps}, args.output
    )


if __name__ == "__main__":
    main()
