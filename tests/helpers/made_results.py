"""Results of a study whose numbers are given, not measured."""

from __future__ import annotations

from typing import Any

from starr_engine.study.grid.axes import Cell, Choice, TaskChoice
from starr_engine.study.grid.results import CellResult, Measurement, Memory, Timing, compare_all

WHERE = {
    "cpu": "Some CPU", "gpu": None, "num_threads": 2, "versions": {"torch": "2.13.0"},
    "commit": "0123456789", "uncommitted_changes": False, "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def made_cell(cache: str = "none", remasking: str = "low_confidence", **changes: Any) -> Cell:
    base: dict[str, Any] = {
        "model": "made", "task": TaskChoice(name="sorting"), "cache": Choice(name=cache),
        "remasking": Choice(name=remasking), "block_length": None, "max_tokens": None,
        "batch_size": 4, "seed": 0, "shots": 0, "num_problems": 4, "engine": {}, "sampling": {},
    }  # fmt: skip
    return Cell(**(base | changes))


def made_measurement(
    *, solved: str = "1110", forwards: tuple[int, ...] = (8, 8, 8, 8), wall_s: float = 4.0,
    rows: float = 100.0, label: str = "exact", prompt_tokens: float = 10.0, latency_s: float = 1.0,
) -> Measurement:  # fmt: skip
    count = len(solved)
    return Measurement(
        label=label,
        fingerprint="same",
        accuracy=solved.count("1") / count,
        accuracy_interval=(0.1, 0.9),
        nfe=sum(forwards) / count,
        nfe_interval=(1.0, 9.0),
        tpf=2.0,
        rows=rows,
        refresh_share=0.25,
        prompt_tokens=prompt_tokens,
        output_tokens=10.0,
        drift=None
        if label == "exact"
        else {"rows_compared": 10, "flip_rate": 0.1, "mean_kl": 0.01, "probe_forwards": 2},
        solved=solved,
        forwards=forwards,
        outputs=tuple(f"{at:08x}" for at in range(count)),
        timing=Timing(
            wall_s=wall_s,
            tokens_per_s=10.0 * count / wall_s,
            latency_p50_s=latency_s,
            latency_p95_s=2 * latency_s,
            mean_batch=3.0,
        ),
        memory=Memory(kv_bytes=2**20, device_bytes=None),
    )


def made_result(cell: Cell, baseline: Cell | None = None, **numbers: Any) -> CellResult:
    error = numbers.pop("error", None)
    return CellResult(
        cell=cell,
        baseline=(baseline or made_cell()).id,
        measured=None if error else made_measurement(**numbers),
        error=error,
        environment=WHERE,
    )


def two_by_two(
    *, both_s: float = 1.0, cache_s: float = 2.0, policy_s: float = 1.0
) -> list[CellResult]:
    """A baseline of 4 s, its cache and policy changed alone, and both changed."""
    return compare_all(
        [
            made_result(made_cell()),
            made_result(made_cell("none", "starr"), wall_s=policy_s, forwards=(2, 2, 2, 2)),
            made_result(made_cell("dual"), wall_s=cache_s, rows=50.0, label="approximate: a"),
            made_result(
                made_cell("dual", "starr"), wall_s=both_s, forwards=(2, 2, 2, 4), rows=20.0,
                solved="0110", label="approximate: a",
            ),
        ]
    )  # fmt: skip
