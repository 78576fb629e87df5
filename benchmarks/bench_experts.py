"""Times a mixture of experts in one grouped product against one expert after the other.

    python -m benchmarks.bench_experts [--device cuda] [--dtype bfloat16] [--threads 2]

The layers are those of published checkpoints, with random weights; rows are those of one block, of
a few requests' blocks and of a prompt. The loop takes each expert's rows, multiplies and adds, as
the published modelling files do, without experts that no row chose. Both are called in turns, so
that they meet the same disturbances, and must agree before they are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import summary, time_calls, write_result
from starr_engine.layers.experts import Experts, grouped_mm_obstacle
from starr_engine.layers.mlp import swiglu
from starr_engine.layers.routing import SoftmaxRouter

ROWS = (4, 32, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Sizes of one mixture."""

    name: str
    num_experts: int
    num_chosen: int
    size: int
    inner_size: int

    @property
    def num_parameters(self) -> int:
        """Of the experts."""
        return 3 * self.num_experts * self.size * self.inner_size


LAYERS = (
    Layer(name="small", num_experts=16, num_chosen=4, size=256, inner_size=256),
    Layer(name="LLaDA-MoE-7B-A1B", num_experts=64, num_chosen=8, size=2048, inner_size=1024),
    Layer(name="SDAR-30B-A3B", num_experts=128, num_chosen=8, size=2048, inner_size=768),
)


def looped(experts: Experts, rows: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
    """What :class:`Experts` returns, expert by expert."""
    out = torch.zeros_like(rows, dtype=torch.float32)
    for expert in expert_ids.unique().tolist():
        row, choice = (expert_ids == expert).nonzero(as_tuple=True)
        inner = functional.linear(rows[row], experts.gate_up[expert])
        made = functional.linear(swiglu(*inner.chunk(2, dim=-1)), experts.down[expert])
        out.index_add_(0, row, made.float() * weights[row, choice].unsqueeze(-1))
    return out.to(rows.dtype)


@torch.inference_mode()
def measure(
    layer: Layer, device: torch.device, dtype: torch.dtype, repeats: int
) -> list[dict[str, Any]]:
    """Time both ways at every number of rows; prints one line each."""
    torch.manual_seed(0)
    with device:
        experts = Experts(layer.num_experts, layer.size, layer.inner_size).to(dtype)
        router = SoftmaxRouter(layer.size, layer.num_experts, layer.num_chosen, renormalise=True)
        router = router.to(dtype)
    for parameter in (*experts.parameters(), *router.parameters()):
        torch.nn.init.normal_(parameter, std=0.02)
    obstacle = grouped_mm_obstacle(experts.gate_up) or grouped_mm_obstacle(experts.down)
    assert obstacle is None, obstacle
    results = []
    for num_rows in ROWS:
        rows = torch.randn((num_rows, layer.size), device=device, dtype=dtype)
        expert_ids, weights = router(rows)
        calls: dict[str, Callable[[], Tensor]] = {
            "grouped": lambda: experts(rows, expert_ids, weights),  # noqa: B023 - called here
            "loop": lambda: looped(experts, rows, expert_ids, weights),  # noqa: B023
        }
        grouped, loop = (call() for call in calls.values())
        bound = 4 * torch.finfo(dtype).eps * loop.abs().max().item()
        torch.testing.assert_close(grouped, loop, rtol=0, atol=max(bound, 1e-6))
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                samples[name] += time_calls(lambda: _to_the_end(call, device), repeats=1, warmup=0)  # noqa: B023
        for name, times in samples.items():
            case = {"rows": num_rows, "experts_hit": len(expert_ids.unique()), "way": name}
            results.append(asdict(layer) | case | summary(times) | {"samples_s": times})
        medians = {name: summary(times)["median_s"] * 1e3 for name, times in samples.items()}
        print(
            f"{layer.name:>18} {num_rows:>5} {len(expert_ids.unique()):>8} "
            f"{medians['grouped']:>11.3f} {medians['loop']:>9.3f}"
        )
    return results


def _to_the_end(call: Callable[[], Tensor], device: torch.device) -> None:
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure every layer that fits; print a table and the JSON line, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--repeats", default=15, type=int, help="timed calls of each case")
    parser.add_argument("--memory-gb", default=4.0, type=float, help="leave out larger layers")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype: torch.dtype = getattr(torch, args.dtype)

    results: list[dict[str, Any]] = []
    skipped: list[str] = []
    print(f"{'layer':>18} {'rows':>5} {'experts':>8} {'grouped ms':>11} {'loop ms':>9}")
    for layer in LAYERS:
        if layer.num_parameters * dtype.itemsize > args.memory_gb * 1e9:
            skipped.append(layer.name)
        else:
            results += measure(layer, args.device, dtype, args.repeats)
    if skipped:
        print(f"left out for lack of memory (--memory-gb): {', '.join(skipped)}")
    setting = {
        "device": str(args.device),
        "dtype": args.dtype,
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
        "skipped": skipped,
    }
    write_result("experts", {"setting": setting, "results": results}, args.output)


if __name__ == "__main__":
    main()
