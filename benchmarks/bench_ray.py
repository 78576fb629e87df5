"""Batch jobs on Ray: two workers against one, Ray's overhead per row, and a job that is killed.

    python -m benchmarks.bench_ray [--parts scaling overhead faults] [--rows 20000]

* ``scaling``: one process, one worker and two workers, of one core each, on the shipped model.
* ``overhead``: rows that cost their engine nothing, in this process and through one worker, both on
  the same core, so that nothing hides behind something else; the difference is what messages,
  calls, the driver and Ray's own processes cost.
* ``faults``: a job of ``--rows`` rows on the shipped model and two workers, of which one is killed
  after a third and the driver after two thirds; the command is then given again. The output must be
  that of an undisturbed run, byte for byte, and no process may be left, Ray's own included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import write_result
from benchmarks.instant_worker import InstantLLM, InstantWorker
from starr_engine import LLM, EngineConfig, SamplingParams
from starr_engine.distributed import Workers, run_batch
from starr_engine.distributed.batch import run_workers
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from starr_engine.study.tasks import TASKS, make_problems
from tests.helpers.ray_jobs import MARK, marked_processes, num_lines, wait_for, write_rows

PARAMS = SamplingParams(max_tokens=64, remasking="starr", cache="dual")
FLAGS = ("--max-tokens", "64", "--remasking", "starr", "--cache", "dual", "--device", "cpu",
         "--workers", "2", "--cpus-per-worker", "1", "--resume", "--quiet")  # fmt: skip
ENGINE = EngineConfig(model="tiny-llada", device="cpu", num_threads=1)


def problems(path: Path, count: int) -> Path:
    """Word problems, all of them different."""
    made = make_problems(TASKS["word_problems"], "train", count, seed=0)
    return write_rows(path, [{"id": each.id, "prompt": each.prompt} for each in made])


def measure_scaling(folder: Path, num_rows: int) -> dict[str, Any]:
    """Tokens per second of this process, of one worker and of two, on the same rows."""
    source = problems(folder / "scaling.jsonl", num_rows)

    def job(name: str) -> BatchJob:
        return BatchJob(input=source, output=folder / f"{name}.jsonl", params=PARAMS)

    options = {name: getattr(ENGINE, name) for name in ENGINE.__dataclass_fields__}
    found = {"in_process": asdict(run_batch_job(LLM(**options), job("in_process")))}
    for count in (1, 2):
        workers = Workers(count=count, cpus_per_worker=1, gpus_per_worker=0)
        found[f"workers_{count}"] = asdict(run_batch(job(f"workers_{count}"), ENGINE, workers))
    outputs = {(folder / f"{name}.jsonl").read_bytes() for name in found}
    speed = {name: row["tokens_per_s"] for name, row in found.items()}
    return {
        "rows": num_rows,
        "wall_s": {name: row["wall_s"] for name, row in found.items()},
        "tokens_per_s": speed,
        "tpf": found["in_process"]["tpf"],
        "two_over_one": speed["workers_2"] / speed["workers_1"],
        "one_over_in_process": speed["workers_1"] / speed["in_process"],
        "same_bytes": len(outputs) == 1,
    }


def measure_overhead(folder: Path, num_rows: int, prompt_tokens: int = 128) -> dict[str, Any]:
    """Microseconds per row in this process and through one worker."""
    ids = list(range(prompt_tokens))
    rows = [{"id": i, "prompt_token_ids": ids} for i in range(num_rows)]
    source = write_rows(folder / "overhead.jsonl", rows)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # Ray's processes inherit it
    try:
        here = run_batch_job(InstantLLM(), BatchJob(input=source, output=folder / "here.jsonl"))
        there = run_workers(
            BatchJob(input=source, output=folder / "there.jsonl"),
            EngineConfig(model="instant", device="cpu"),
            Workers(count=1, cpus_per_worker=1),
            InstantWorker,
        )
    finally:
        os.sched_setaffinity(0, cores)
    microseconds = {
        "in_process": here.wall_s / num_rows * 1e6,
        "worker": there.wall_s / num_rows * 1e6,
    }
    return {
        "rows": num_rows,
        "prompt_tokens": prompt_tokens,
        "us_per_row": microseconds,
        "overhead_us_per_row": microseconds["worker"] - microseconds["in_process"],
        "rows_per_s_on_one_core": num_rows / there.wall_s,
    }


class Command:
    """``starr-engine batch`` in a process of its own, with all its children marked."""

    def __init__(self, source: Path, output: Path) -> None:
        self.output = output
        self.mark = uuid.uuid4().hex
        self._argv = [sys.executable, "-m", "starr_engine", "batch", "--input", str(source),
                      "--output", str(output), *FLAGS]  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on."""
        return subprocess.Popen(self._argv, env={**os.environ, MARK: self.mark})

    def num_rows(self) -> int:
        """Finished rows of an unfinished job."""
        return num_lines(journal_path(self.output))

    def wait_for_rows(self, count: int, process: subprocess.Popen[bytes]) -> None:
        """Until the journal has so many rows."""
        while self.num_rows() < count:
            assert process.poll() is None, "the command ended before it was killed"
            time.sleep(0.05)

    def worker_ids(self) -> list[int]:
        """Process ids of the engines."""
        lines = marked_processes(self.mark)
        return [int(line.split()[0]) for line in lines if "EngineWorker" in line]


def measure_faults(folder: Path, num_rows: int) -> dict[str, Any]:
    """A worker killed after a third of the rows and the driver after two thirds."""
    source = problems(folder / "faults.jsonl", num_rows)
    calm = Command(source, folder / "calm.jsonl")
    started = time.perf_counter()
    assert calm.start().wait() == 0
    calm_s = time.perf_counter() - started

    command = Command(source, folder / "killed.jsonl")
    started = time.perf_counter()
    process = command.start()
    command.wait_for_rows(num_rows // 3, process)
    os.kill(command.worker_ids()[0], signal.SIGKILL)
    command.wait_for_rows(2 * num_rows // 3, process)
    process.kill()
    process.wait()
    kept = command.num_rows()
    killed_at = time.perf_counter()
    wait_for(lambda: not marked_processes(command.mark), "Ray's processes to end")
    gone_s = time.perf_counter() - killed_at
    resumed_at = time.perf_counter()
    assert command.start().wait() == 0
    total_s = killed_at - started + time.perf_counter() - resumed_at
    wait_for(lambda: not marked_processes(command.mark), "Ray's processes to end")

    ids = [json.loads(line)["id"] for line in source.read_text().splitlines()]
    rows = [json.loads(line) for line in command.output.read_text().splitlines()]
    return {
        "rows": num_rows,
        "undisturbed_s": calm_s,
        "with_two_kills_s": total_s,
        "rows_kept_by_the_journal": kept,
        "last_process_gone_after_s": gone_s,
        "every_row_once": [row["id"] for row in rows] == ids,
        "rows_with_error": sum(row["error"] is not None for row in rows),
        "same_bytes": command.output.read_bytes() == calm.output.read_bytes(),
        "processes_left": len(marked_processes(command.mark)),
    }


def main() -> None:
    """Measure, print and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("scaling", "overhead", "faults")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--rows", type=int, default=20_000, help="of the killed job")
    parser.add_argument("--scaling-rows", type=int, default=2_000)
    parser.add_argument("--overhead-rows", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if "scaling" in args.parts:
            result["scaling"] = measure_scaling(Path(name), args.scaling_rows)
        if "overhead" in args.parts:
            result["overhead"] = measure_overhead(Path(name), args.overhead_rows)
        if "faults" in args.parts:
            result["faults"] = measure_faults(Path(name), args.rows)
    write_result("ray", result, args.output)


if __name__ == "__main__":
    main()
