"""STaRR's defaults are those that the committed calibrations justify."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from starr_engine.decoding.policies.starr import StarrPolicy

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("model", ["tiny_llada", "tiny_sdar"])
def test_they_reach_the_goal_on_held_out_prompts_and_little_is_cheaper(model: str) -> None:
    record = json.loads((RESULTS / f"starr_defaults_{model}.json").read_text())
    goal = record["goal"]["least"]
    [defaults] = [row for row in record["rows"] if row["name"] == "defaults"]
    assert defaults["args"] == asdict(StarrPolicy())
    for part in ("search", "held_out"):
        assert defaults[part]["agreement"] >= goal
    others = [
        row["held_out"]["nfe"]
        for row in record["rows"]
        if row["name"] == "front" and row["held_out"]["agreement"] >= goal
    ]
    assert all(nfe > 0.95 * defaults["held_out"]["nfe"] for nfe in others)
