"""The arithmetic of the summary, on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

from starr_engine.offline.summary import Tally


def row(nfe: int, tpf: float, tokens: int) -> dict:
    return {"error": None, "nfe": nfe, "tpf": tpf, "token_ids": [1] * tokens}


def test_tpf_weighs_rows_by_their_forwards_and_speed_leaves_resumed_rows_out():
    now = [10.0]
    tally = Tally(clock=lambda: now[0])
    tally.add(row(nfe=10, tpf=2.0, tokens=18), resumed=True)
    now[0] = 100.0
    tally.start_clock()
    tally.add(row(nfe=30, tpf=1.0, tokens=28))
    tally.add({"error": "too long", "nfe": None, "tpf": None, "token_ids": None})
    now[0] = 102.0
    summary = tally.summary(Path("out.jsonl"))
    assert summary.tpf == (10 * 2.0 + 30 * 1.0) / 40
    assert summary.mean_nfe == 20.0
    assert (summary.wall_s, summary.tokens_per_s) == (2.0, 14.0)
    assert (summary.num_rows, summary.num_errors, summary.num_resumed) == (3, 1, 1)


def test_nothing_done_is_all_zeros():
    summary = Tally().summary(Path("out.jsonl"))
    assert (summary.mean_nfe, summary.tpf, summary.tokens_per_s, summary.wall_s) == (0, 0, 0, 0)
