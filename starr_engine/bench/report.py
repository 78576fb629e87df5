"""What a benchmark found, as numbers for JSON and as lines to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from starr_engine.bench.peaks import Peaks
from starr_engine.bench.profiler import StepProfiler, StepRecord, phase_seconds
from starr_engine.bench.run import LoadResult
from starr_engine.outputs import RequestOutput

_PERCENTILES: Final = (50, 90, 99)


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile and maximum of at least one sample, in seconds."""
    found = {f"p{p}_s": float(np.percentile(samples, p)) for p in _PERCENTILES}
    return {"mean_s": float(np.mean(samples)), **found, "max_s": float(max(samples))}


def load_report(result: LoadResult) -> dict[str, Any]:
    """Counts, rates and latencies of a load that ran.

    ``tokens`` are those that requests give back; ``nfe`` counts forwards of requests and ``steps``
    those of the engine, so that ``nfe / steps`` is the mean batch.
    """
    outputs = [_output(request.output) for request in result.requests]
    tokens = sum(len(output.token_ids) for output in outputs)
    nfe = sum(output.nfe for output in outputs)
    rows = sum(output.computed_rows for output in outputs)
    return {
        "requests": len(outputs),
        "seconds": result.seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / result.seconds,
        "requests_per_s": len(outputs) / result.seconds,
        "steps": result.num_steps,
        "steps_per_s": result.num_steps / result.seconds,
        "mean_batch": nfe / result.num_steps,
        "nfe": nfe,
        "tpf": sum(output.num_unmasked for output in outputs) / nfe,
        "computed_rows": rows,
        "rows_per_step": rows / result.num_steps,
        "refreshes": sum(output.num_refreshes for output in outputs),
        "cache_labels": sorted({output.cache_label for output in outputs}),
        "latency": _latencies(result),
    }


def _latencies(result: LoadResult) -> dict[str, dict[str, float]]:
    """``per_block`` is from one block of a request to its next, so that the first has no part."""
    gaps = [each.block_gaps_s for each in result.requests]
    samples = {
        "first_block": [each[0] for each in gaps if each],
        "per_block": [gap for each in gaps for gap in each[1:]],
        "request": [each.end_s - each.due_s for each in result.requests],
    }
    return {name: percentiles(each) for name, each in samples.items() if each}


def profile_report(profile: StepProfiler, peaks: Peaks | None) -> dict[str, Any]:
    """Where the time of the steps went, and how much of it the device needs at the least.

    Args:
        profile: Of at least one step.
        peaks: Of the device; None leaves the roofline out, as a split model does.
    """
    total = sum(step.seconds for step in profile.steps)
    phases = phase_seconds(profile.spans)
    phases["other"] = total - sum(phases.values())
    report: dict[str, Any] = {
        "steps": len(profile.steps),
        "seconds": total,
        "phases": {
            phase: {"seconds": seconds, "share": seconds / total}
            for phase, seconds in phases.items()
        },
    }
    if peaks is not None and all(step.work is not None for step in profile.steps):
        groups = {
            "all": profile.steps,
            "block_steps": [step for step in profile.steps if not step.has_refresh],
            "refresh_steps": [step for step in profile.steps if step.has_refresh],
        }
        report["roofline"] = {
            "peak_bytes_per_s": peaks.bytes_per_s,
            "peak_flops_per_s": peaks.flops_per_s,
            **{name: _roofline(steps, peaks) for name, steps in groups.items() if steps},
        }
    return report


def _roofline(steps: Sequence[StepRecord], peaks: Peaks) -> dict[str, float]:
    seconds = sum(step.seconds for step in steps)
    works = [step.work for step in steps if step.work is not None]
    flops = sum(work.flops for work in works)
    num_bytes = sum(work.num_bytes for work in works)
    return {
        "steps": len(steps),
        "s_per_step": seconds / len(steps),
        "bytes_per_step": num_bytes / len(steps),
        "flops_per_step": flops / len(steps),
        "bandwidth_share": num_bytes / seconds / peaks.bytes_per_s,
        "compute_share": flops / seconds / peaks.flops_per_s,
        "share": sum(map(peaks.least_seconds, works)) / seconds,
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """The main numbers of a report with ``result`` and perhaps ``profile``, to read."""
    result = report["result"]
    lines = [
        f"{result['requests']} requests in {result['seconds']:.2f} s: "
        f"{result['tokens_per_s']:.1f} tokens/s, {result['steps_per_s']:.1f} steps/s, "
        f"mean batch {result['mean_batch']:.2f}",
        f"NFE {result['nfe']}, {result['tpf']:.2f} tokens per forward, "
        f"{result['rows_per_step']:.1f} rows per step",
    ]
    for name, times in result["latency"].items():
        shown = "  ".join(f"{key[:-2]} {1e3 * value:.1f} ms" for key, value in times.items())
        lines.append(f"{name.replace('_', ' '):12} {shown}")
    profile = report.get("profile")
    if profile is None:
        return lines
    for phase, part in profile["phases"].items():
        per_step = 1e3 * part["seconds"] / profile["steps"]
        lines.append(f"{phase:9} {per_step:9.3f} ms/step {part['share']:7.1%}")
    for name, part in profile.get("roofline", {}).items():
        if isinstance(part, dict):
            lines.append(
                f"{name.replace('_', ' '):13} {1e3 * part['s_per_step']:8.2f} ms/step, "
                f"{part['share']:.1%} of the roofline (bandwidth {part['bandwidth_share']:.1%}, "
                f"compute {part['compute_share']:.1%})"
            )
    if "gpu_busy_share" in report:
        lines.append(f"GPU busy {report['gpu_busy_share']:.1%}")
    return lines


def _output(output: RequestOutput | None) -> RequestOutput:
    assert output is not None, "a load ends when all requests have ended"
    return output
