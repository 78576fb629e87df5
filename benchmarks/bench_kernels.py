"""Times logits_statistics against the PyTorch calls it replaces.

    python -m benchmarks.bench_kernels [--device cuda] [--repeats 15] [--memory-gb 4]

The baseline is softmax and top-2 (candidate and probabilities); a second one adds the entropy,
which together is what the op gives. The last line of standard output is one JSON object with
the raw samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.harness import environment
from starr_engine import ops

LLADA_VOCABULARY = 126_464
SHAPES = ((32, LLADA_VOCABULARY), (512, LLADA_VOCABULARY), (32, 2_048), (512, 2_048))
DTYPES = (torch.float32, torch.bfloat16)
# A baseline holds the logits, their probabilities and a product of the two, in float32 at most.
BYTES_PER_LOGIT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One implementation on one shape."""

    name: str
    rows: int
    vocabulary: int
    dtype: str
    seconds: list[float]

    @property
    def median_s(self) -> float:
        """Median of the samples in seconds."""
        return statistics.median(self.seconds)


def _softmax_top2(logits: Tensor) -> object:
    return torch.softmax(logits, -1).topk(2, -1)


def _softmax_top2_entropy(logits: Tensor) -> object:
    log_probabilities = torch.log_softmax(logits, -1)
    probabilities = log_probabilities.exp()
    return probabilities.topk(2, -1), -(probabilities * log_probabilities).sum(-1)


IMPLEMENTATIONS: dict[str, Callable[[Tensor], object]] = {
    "logits_statistics": ops.logits_statistics,
    "torch: softmax, top-2": _softmax_top2,
    "torch: softmax, top-2, entropy": _softmax_top2_entropy,
}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, inputs: list[Tensor], repeats: int) -> Result:
    """Time one implementation, its inputs taken in turn so that none stays in a cache."""
    run, device = IMPLEMENTATIONS[name], inputs[0].device
    for logits in inputs:
        run(logits)
    seconds = []
    for repeat in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        run(inputs[repeat % len(inputs)])
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    rows, vocabulary = inputs[0].shape
    dtype = str(inputs[0].dtype).removeprefix("torch.")
    return Result(name=name, rows=rows, vocabulary=vocabulary, dtype=dtype, seconds=seconds)


def main() -> None:
    """Measure every shape, dtype and implementation; print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--repeats", default=15, type=int, help="timed calls of each case")
    parser.add_argument("--memory-gb", default=4.0, type=float, help="leave out larger shapes")
    arguments = parser.parse_args()

    results: list[Result] = []
    skipped: list[str] = []
    print(
        f"{'rows x vocabulary':>18} {'dtype':>9} {'median ms':>10} {'best ms':>9}  implementation"
    )
    for rows, vocabulary in SHAPES:
        if rows * vocabulary * BYTES_PER_LOGIT > arguments.memory_gb * 1e9:
            skipped.append(f"{rows} x {vocabulary}")
            continue
        for dtype in DTYPES:
            torch.manual_seed(0)
            inputs = [
                (torch.randn(rows, vocabulary) * 4).to(arguments.device, dtype)
                for _ in range(2 if rows * vocabulary > 10**7 else 8)
            ]
            for name in IMPLEMENTATIONS:
                result = measure(name, inputs, arguments.repeats)
                results.append(result)
                print(
                    f"{f'{rows} x {vocabulary}':>18} {result.dtype:>9} "
                    f"{result.median_s * 1e3:>10.3f} {min(result.seconds) * 1e3:>9.3f}  {name}"
                )
    if skipped:
        print(f"left out for lack of memory (--memory-gb): {', '.join(skipped)}")
    record = {
        "benchmark": "kernels",
        "device": str(arguments.device),
        "environment": environment(),
        "skipped": skipped,
    }
    print(json.dumps(record | {"results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
