"""Memory of each rank of a split model, and what it is told per step.

    python -m benchmarks.bench_ranks [--arch a2d --size qwen3-0.6b] [--dtype bfloat16]
        [--ranks 1 2 4]

Writes a random checkpoint in shards of 1 GB into a temporary folder, and runs an engine over each
number of ranks on the CPU, in a fresh process. ``held`` is what the kernel counts of a process
beside mapped files (RssAnon) once the engine has taken some steps; ``peak`` is its VmHWM, with the
pages of mapped files that were in memory. What interpreter and packages take, ``base``, is
subtracted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import write_result
from starr_engine.make_checkpoint.published import ARCHITECTURES, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint

GB = 10**9
MB = 10**6

_RUN = """
import json, os, sys
from pathlib import Path
from starr_engine import SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.rank_processes import RankProcesses

folder, dtype, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = []

def status(process_id):
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    sizes = (line.split() for line in lines if line.startswith(("VmHWM:", "RssAnon:", "VmRSS:")))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in sizes}

class Counted(RankProcesses):
    def __init__(self, count, device):
        super().__init__(count, device)
        before.extend(status(process_id) for process_id in self.process_ids)
        processes.extend(self.process_ids)

    def tell(self, message):
        told.append(len(message))
        super().tell(message)

processes, before = [os.getpid()], [status(os.getpid())]
config = EngineConfig(
    model=folder, dtype=dtype, device="cpu", tensor_parallel_size=count, num_pages=129,
    max_num_requests=4,
)
engine = Engine(config, Counted)
for _ in range(4):
    engine.add_request(list(range(5, 133)), SamplingParams(max_tokens=32, remasking="threshold"))
start = len(told)
for _ in range(4):
    engine.step()
ranks = []
for process_id, base in zip(processes, before):
    now = status(process_id)
    ranks.append({
        "base_bytes": base["RssAnon"],
        "held_bytes": now["RssAnon"] - base["RssAnon"],
        "peak_bytes": now["VmHWM"] - base["VmRSS"],
    })
pages = engine.executor._kv_pool.pages
print(json.dumps({
    "ranks": count,
    "weight_bytes_of_rank_0": engine.weight_bytes,
    "page_bytes_of_rank_0": pages.numel() * pages.element_size(),
    "of_each_rank": ranks,
    "message_bytes": told[start:],
}))
engine.close()
"""


def measure(folder: Path, dtype: str, count: int) -> dict[str, Any]:
    """An engine over so many ranks, in a fresh process."""
    words = [sys.executable, "-c", _RUN, str(folder), dtype, str(count)]
    run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def main() -> None:
    """Measure; print a line for each rank and the JSON line, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="a2d")
    parser.add_argument("--size", default="qwen3-0.6b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        stored = make_checkpoint(folder, published_model(args.arch, args.size), max_shard_bytes=GB)
        for count in args.ranks:
            row = measure(folder, args.dtype, count)
            rows.append(row)
            for rank, sizes in enumerate(row["of_each_rank"]):
                held, peak = sizes["held_bytes"] / MB, sizes["peak_bytes"] / MB
                print(f"{count} ranks, rank {rank}: held {held:.0f} MB, peak {peak:.0f} MB")
    content = {"checkpoint": f"{args.arch} {args.size}", "dtype": args.dtype, "rows": rows}
    write_result("ranks", content | {"stored_bytes": stored}, args.output)


if __name__ == "__main__":
    main()
