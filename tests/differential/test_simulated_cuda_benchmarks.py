"""The benchmarks for a GPU run to their end on a simulated one, and write what they found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.gpu import bench_ablations, bench_shapes

SMALL = [
    "llada-8b", "--size", "tiny", "--batches", "1", "--tokens-per-step", "4", "--prompt-len", "8",
    "--max-tokens", "8", "--kv-memory", "16MiB", "--attention-backend", "sdpa",
    "--peak-bandwidth", "1", "--peak-compute", "1",
]  # fmt: skip
VARIANTS = ["everything", "head on all rows"]


@pytest.fixture(autouse=True)
def _without_torchs_profiler(simulated_device: object) -> Iterator[None]:
    """It needs a CUDA build of torch."""
    with mock.patch("starr_engine.bench.measure.gpu_busy_share", return_value=0.5):
        yield


def test_shapes(tmp_path: Path) -> None:
    bench_shapes.main([*SMALL, "--output", str(tmp_path / "shapes.json")])
    found = json.loads((tmp_path / "shapes.json").read_text())
    [row] = found["rows"]
    assert row["fits"]
    assert row["gpu_busy_share"] == 0.5
    assert row["graphs"]["replayed"] > 0
    assert found["setting"]["device"].startswith("cuda")


def test_ablations(tmp_path: Path) -> None:
    output = tmp_path / "ablations.json"
    bench_ablations.main([*SMALL, "--output", str(output), "--variants", *VARIANTS])
    found = json.loads(output.read_text())
    assert [row["variant"] for row in found["rows"]] == VARIANTS
