"""Cells of the committed study, measured again here, give the committed accuracy and forwards."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from starr_engine.study.grid.rerun import rerun
from starr_engine.study.grid.results import RESULTS, CellResult, read_results

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results" / "study"
NUM_CELLS = 6
MOST_SECONDS = 1.0
"""Only cells that took less are run again; policies with a few forwards a block do."""


def drawn_cells() -> list[CellResult]:
    """A few cheap cells, others for every version of the file, each model's in turn."""
    draw = random.Random(hashlib.sha256((FOLDER / RESULTS).read_bytes()).digest())
    cheap = [
        each
        for each in read_results(FOLDER)
        if each.measured is not None
        and each.measured.timing.wall_s <= MOST_SECONDS
        and each.environment.get("gpu") is None
    ]
    models = sorted({each.cell.model for each in cheap})
    share = -(-NUM_CELLS // max(1, len(models)))
    found: list[CellResult] = []
    for model in models:
        own = [each for each in cheap if each.cell.model == model]
        found += draw.sample(own, min(share, len(own)))
    assert len(found) >= NUM_CELLS, f"{FOLDER} has too few cells of under {MOST_SECONDS:g} s"
    return found[:NUM_CELLS]


@pytest.mark.skipif(
    not (FOLDER / RESULTS).exists(),
    reason="benchmarks/results/study is not there: starr-engine study benchmarks/study.yaml",
)
def test_cells_of_the_committed_study_give_the_same_again():
    # One thread: with more, engines of tests that run side by side wait for each other.
    verdicts = list(rerun(drawn_cells(), num_threads=1))
    print("\n".join(map(str, verdicts)))
    assert [str(each) for each in verdicts if each.reasons] == []
