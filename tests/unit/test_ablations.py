"""The ablations of the CUDA path run anywhere, and every variant takes the same steps."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu import bench_ablations


def test_the_ablations_run_tiny_on_a_cpu_and_take_the_same_steps(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    bench_ablations.main(
        ["llada-8b", "--device", "cpu", "--size", "tiny", "--batches", "2", "--tokens-per-step",
         "4", "--prompt-len", "16", "--max-tokens", "16", "--peak-bandwidth", "10",
         "--peak-compute", "0.1", "--output", str(output),
         "--variants", "everything", "head on all rows"]
    )  # fmt: skip
    rows = json.loads(output.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["everything", "head on all rows"]
    assert {row["result"]["tpf"] for row in rows} == {4.0}
    assert {row["graphs"] for row in rows} == {None}
