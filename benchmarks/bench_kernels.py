"""Times the ops against the PyTorch calls they replace.

    python -m benchmarks.bench_kernels [--device cuda] [--threads 2] [--repeats 15] [--ops NAME ...]

For ``logits_statistics`` the baseline is softmax and top-2 (candidate and probabilities); a second
one adds the entropy, which together is what the op gives. The other sizes and baselines are in
``kernel_cases.py``. Implementations are called in turns, so that all meet the same disturbances.
A case is left out, and recorded as such, where it would take more than ``--memory-gb``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import summary, time_calls, write_result
from benchmarks.kernel_cases import Case, all_cases


def _run_to_the_end(call: Callable[[], object], device: torch.device) -> None:
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Time all implementations of one case, which print as one line each."""
    torch.manual_seed(0)
    calls = {name: partial(_run_to_the_end, call, device) for name, call in case.make().items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        time_calls(call, repeats=1)
    for _ in range(repeats):
        for name, call in calls.items():
            samples[name] += time_calls(call, repeats=1, warmup=0)
    results = []
    dtype = str(case.dtype).removeprefix("torch.")
    for name, times in samples.items():
        spread = summary(times)
        result = {"op": case.op, "name": name, "shape": case.shape, "dtype": dtype}
        results.append(result | spread | {"samples_s": times})
        middle, best = spread["median_s"] * 1e3, min(times) * 1e3
        print(f"{case.shape:>34} {dtype:>9} {middle:>10.3f} {best:>9.3f}  {name}")
    return results


def main() -> None:
    """Measure every case; print a table and the JSON line, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--repeats", default=15, type=int, help="timed calls of each case")
    parser.add_argument("--memory-gb", default=4.0, type=float, help="leave out larger cases")
    parser.add_argument("--ops", nargs="+", default=None, help="only these; default: all")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    results: list[dict[str, Any]] = []
    skipped: list[str] = []
    print(f"{'size':>34} {'dtype':>9} {'median ms':>10} {'best ms':>9}  implementation")
    for case in all_cases(args.device):
        if args.ops and case.op not in args.ops:
            continue
        if case.bytes_needed > args.memory_gb * 1e9:
            skipped.append(f"{case.op} {case.shape} {case.dtype}")
        else:
            results += measure(case, args.device, args.repeats)
    if skipped:
        print(f"left out for lack of memory (--memory-gb): {', '.join(skipped)}")
    setting = {
        "device": str(args.device),
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
        "skipped": skipped,
    }
    write_result("kernels", {"setting": setting, "results": results}, args.output)


if __name__ == "__main__":
    main()
