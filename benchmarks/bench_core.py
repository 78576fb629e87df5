"""Nanoseconds per call of the C++ bookkeeping, as Python sees it.

    python -m benchmarks.bench_core [--repeats 15]

Prints a line per measurement (median and quartiles over the repeats, after one warm-up) and, as
the last line of stdout, one JSON object with the same numbers and the machine they come from.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from benchmarks.harness import environment
from starr_engine._core import BatchBuilder, PagePool, PageTable

PAGE_SIZE = 32
NUM_REQUESTS = 64
BLOCK = 32  # query rows of a request
CONTEXT = 1_000  # rows that a request reads


def measure(call: Callable[[], object], calls: int, repeats: int) -> list[float]:
    """Sorted nanoseconds per call, one entry per repeat of `calls` calls."""
    samples = []
    for _ in range(repeats + 1):
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter_ns() - start) / calls)
    return sorted(samples[1:])


def build_cases() -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (what is timed, calls per repeat)."""
    num_pages = -(-CONTEXT // PAGE_SIZE)
    pool = PagePool(num_pages=(NUM_REQUESTS + 1) * num_pages + 1, page_size=PAGE_SIZE)
    created = [PageTable.try_create(pool, CONTEXT) for _ in range(NUM_REQUESTS)]
    tables = [table for table in created if table is not None]
    for table in tables:
        table.mark_written([(0, CONTEXT)])
    tokens = np.arange(CONTEXT, dtype=np.int32)
    changed = np.arange(CONTEXT - BLOCK, CONTEXT, dtype=np.int32)
    block, context = [(CONTEXT - BLOCK, CONTEXT)], [(0, CONTEXT)]
    builder = BatchBuilder(PAGE_SIZE)

    def allocate_and_release() -> None:
        pages = pool.try_allocate(num_pages)
        assert pages is not None
        pool.release(pages)

    def add_all() -> None:
        builder.clear()
        for table in tables:
            builder.add(table, tokens, block, block, context, changed, block[0])

    add_all()
    num_query, num_score = builder.num_query_rows, builder.num_score_rows
    arrays: dict[str, np.ndarray] = {
        **{name: np.empty(num_query, np.int64) for name in ("input_ids", "positions")},
        "slot_mapping": np.empty(num_query, np.int64),
        **{name: np.empty(NUM_REQUESTS + 1, np.int32) for name in ("cu_query", "cu_read")},
        "read_slots": np.empty(builder.num_read_rows, np.int64),
        "page_table": np.empty((NUM_REQUESTS, builder.max_pages), np.int32),
        "logits_rows": np.empty(num_score, np.int64),
        **{name: np.empty(num_score, np.int32) for name in ("score_request", "score_positions")},
        **{name: np.empty(NUM_REQUESTS, np.int32) for name in ("shadow_lens", "shadow_columns")},
        "visible": np.empty(num_query, np.int32),
        "limited": np.empty(NUM_REQUESTS, np.int32),
    }

    def add_and_fill() -> None:
        add_all()
        builder.fill(**arrays)

    return {
        f"allocate_release_{num_pages}_pages": (allocate_and_release, 5_000),
        f"mark_dirty_{BLOCK}_rows": (lambda: tables[0].mark_dirty(changed), 20_000),
        f"add_{NUM_REQUESTS}_requests": (add_all, 200),
        f"add_fill_{NUM_REQUESTS}x{BLOCK}_rows_reading_{CONTEXT}": (add_and_fill, 200),
    }


def main() -> None:
    """Measure every case and print the table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    results = {}
    for name, (call, calls) in build_cases().items():
        samples = measure(call, calls, repeats)
        low, median, high = (samples[len(samples) * q // 4] for q in (1, 2, 3))
        results[name] = {"median_ns": median, "quartiles_ns": [low, high], "samples_ns": samples}
        print(f"{name:44} {median:12,.0f} ns/call  [{low:,.0f}, {high:,.0f}]")
    print(json.dumps({"benchmark": "core", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
