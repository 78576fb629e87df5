"""A STaRR step from logits to decision: the fused op against what one would write in PyTorch.

    python -m benchmarks.bench_starr_step [--threads 2] [--repeats 7] [--dtype bfloat16]

Blocks of 32 masks, 126,464 tokens, 1, 16 and 64 requests, temperature 0, STaRR's default
arguments, some history. Four implementations, all with the same decision:

* ``fused``: ``ops.starr_step``;
* ``two ops``: ``ops.logits_statistics``, a gather for the logit, ``ops.starr_decide``, which is
  what the engine runs, without its bookkeeping;
* ``reference``: ``ops_reference.starr_step`` in float32, PyTorch throughout;
* ``float64 softmax``: what generation scripts of this family do, LLaDA's among them. The mask
  token's logit is set to -inf in place, the candidate is the arg-max of the logits, its confidence
  is gathered from ``softmax(logits.to(float64), -1)``, the positions of each block are ranked by a
  descending sort of the confidences, and the policy decides in PyTorch. No entropy, no second
  probability: less than the others give.

``memory``: a case is left out, and recorded as such, where it would take more than 0.8 of the
memory that is available. Outputs are compared before anything is timed, which also is the warm-up.
Inputs are taken in turn where one of them would fit in a cache.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import summary, time_calls, write_result
from starr_engine import ops, ops_reference
from starr_engine.decoding.policies.starr import StarrPolicy
from starr_engine.engine.memory import free_host_memory
from starr_engine.starr_types import StarrDecision, StarrState

VOCAB, BLOCK_LENGTH = 126_464, 32
MASK_TOKEN = VOCAB - 128
ROWS = (1, 16, 64)
FUSED = "fused"
POLICY = StarrPolicy()
MEMORY_SHARE = 0.8
LARGEST_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The blocks of ``n`` requests and the logits of all their positions."""

    logits: Tensor  # [n * 32, V]
    present: Tensor  # [n, 32]
    row_of: Tensor
    masked: Tensor
    num_left: Tensor  # [n]
    state: StarrState


def make_step(rows: int, dtype: torch.dtype) -> Step:
    """Random logits, sharper in some rows than in others, and three steps of history."""
    shape = (rows, BLOCK_LENGTH)
    logits = torch.randn(rows * BLOCK_LENGTH, VOCAB, dtype=dtype)
    logits *= torch.linspace(0.5, 4, len(logits))[:, None].to(dtype)
    state = StarrState(**POLICY.init_state(rows, BLOCK_LENGTH, torch.device("cpu")))
    return Step(
        logits=logits,
        present=torch.full(shape, MASK_TOKEN),
        row_of=torch.arange(rows * BLOCK_LENGTH).view(shape),
        masked=torch.ones(shape, dtype=torch.bool),
        num_left=torch.full((rows,), 64),
        state=state._replace(ring=torch.rand_like(state.ring), seen=state.seen + 3),
    )


def _step_arguments(s: Step) -> tuple[Any, ...]:
    return (s.logits, MASK_TOKEN, s.row_of, s.present, s.masked, s.num_left, s.state, POLICY.rule)


def fused(s: Step) -> StarrDecision:
    """One op."""
    return ops.starr_step(*_step_arguments(s))[1]


def two_ops(s: Step) -> StarrDecision:
    """Scores by one op, the decision by another."""
    statistics = ops.logits_statistics(s.logits, MASK_TOKEN)
    s.logits.gather(1, statistics.candidate[:, None])
    shape = s.masked.shape
    return ops.starr_decide(
        statistics.candidate.view(shape), statistics.top1.view(shape), s.masked, s.num_left,
        s.state, POLICY.rule,
    )  # fmt: skip


def reference(s: Step) -> StarrDecision:
    """PyTorch, in float32."""
    return ops_reference.starr_step(*_step_arguments(s), dtype=torch.float32)[1]


def float64_softmax(s: Step) -> StarrDecision:
    """Softmax of the whole vocabulary in float64, and a sort."""
    s.logits[:, MASK_TOKEN] = -torch.inf
    candidates = s.logits.argmax(-1)
    probabilities = torch.softmax(s.logits.to(torch.float64), -1)
    confidence = probabilities.gather(1, candidates[:, None])[:, 0].float().view(s.masked.shape)
    confidence.sort(dim=1, descending=True)
    return ops_reference.starr_decide(
        candidates.view(s.masked.shape), confidence, s.masked, s.num_left, s.state, POLICY.rule
    )


IMPLEMENTATIONS: dict[str, tuple[Callable[[Step], StarrDecision], int]] = {
    FUSED: (fused, 0),
    "two ops": (two_ops, 0),
    "reference": (reference, 28),
    "float64 softmax": (float64_softmax, 16),
}
"""With the bytes for each logit that its temporaries take at their peak."""


def measure(rows: int, dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    """All implementations on one size; each result has ``skipped`` or its samples."""
    num_logits = rows * BLOCK_LENGTH * VOCAB
    results: list[dict[str, Any]] = []
    input_bytes = num_logits * dtype.itemsize
    if input_bytes > MEMORY_SHARE * free_host_memory():
        skipped = f"the logits take {input_bytes} bytes, {free_host_memory()} are available"
        return [{"rows": rows, "name": name, "skipped": skipped} for name in IMPLEMENTATIONS]
    steps = [make_step(rows, dtype) for _ in range(1 + LARGEST_CACHE_BYTES // input_bytes)]
    samples: dict[str, list[float]] = {}
    for name, (run, bytes_per_logit) in IMPLEMENTATIONS.items():
        needed = num_logits * bytes_per_logit
        results.append({"rows": rows, "name": name})
        if needed > MEMORY_SHARE * free_host_memory():
            results[-1]["skipped"] = f"it takes {needed} bytes, {free_host_memory()} are available"
        else:
            check_same(run(steps[0]), fused(steps[0]))
            samples[name] = []
    # In turns, so that all meet the same disturbances.
    for repeat in range(repeats):
        for name, times in samples.items():
            call = partial(IMPLEMENTATIONS[name][0], steps[repeat % len(steps)])
            times += time_calls(call, repeats=1, warmup=0)
    for result in results:
        report(result, samples, num_logits)
    return results


def report(result: dict[str, Any], samples: dict[str, list[float]], num_logits: int) -> None:
    """Complete and print one line of results."""
    head = f"{result['rows']:4} rows  {result['name']:16}"
    if "skipped" in result:
        print(f"{head} skipped: {result['skipped']}")
        return
    times = samples[result["name"]]
    result |= summary(times) | {"samples_s": times}
    result["logits_per_s"] = num_logits / result["median_s"]
    result["times_fused"] = result["median_s"] / statistics.median(samples[FUSED])
    print(f"{head} {1e3 * result['median_s']:9.1f} ms  {result['times_fused']:6.2f} x fused")


def check_same(got: StarrDecision, expected: StarrDecision) -> None:
    """Refuse to time implementations that decide differently."""
    torch.testing.assert_close(got.threshold, expected.threshold, rtol=1e-4, atol=1e-5)
    different = int((got.unmask != expected.unmask).sum())
    if different > 0:
        raise RuntimeError(f"{different} decisions differ from the fused op's")


def main() -> None:
    """Measure every size that fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="requests")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [
        result
        for count in args.rows
        for result in measure(count, getattr(torch, args.dtype), args.repeats)
    ]
    setting = {
        "vocabulary": VOCAB,
        "block_length": BLOCK_LENGTH,
        "dtype": args.dtype,
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
    }
    write_result("starr_step", {"setting": setting, "results": rows}, args.output)


if __name__ == "__main__":
    main()
