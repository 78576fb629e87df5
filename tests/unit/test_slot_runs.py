"""Slots that a CPU reads where they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from starr_engine import ops
from starr_engine.attention.base import AttentionShape
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.slot_runs import SlotRun, first_slots, split_evenly
from tests.helpers.attention import Lengths, causal, fresh, make_metadata, paged

SHAPE = AttentionShape(
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    page_size=8,
    dtype=torch.float32,
    device=torch.device("cpu"),
)

STEPS: dict[str, list[Lengths]] = {
    "one": [paged(4, 20)],
    "evenly spaced": [paged(4, 20), paged(4, 20), paged(4, 20)],
    "unevenly spaced": [paged(4, 20), paged(4, 20), fresh(3), paged(4, 20)],
    "mixed with fresh and masked": [
        *(paged(4, 9), fresh(5), causal(paged(16, 24), 8), paged(8, 24, shadow=(16, 24))),
    ],
}


@pytest.mark.parametrize(
    ("starts", "calls"),
    [
        ([8], [(1, SlotRun(8, 0))]),
        ([8, 32, 56], [(3, SlotRun(8, 24))]),
        ([8, 8], [(2, SlotRun(8, 0))]),  # both read one shared prefix
        ([8, 32, 64], [(1, SlotRun(8, 0)), (1, SlotRun(32, 0)), (1, SlotRun(64, 0))]),
        ([32, 8], [(1, SlotRun(32, 0)), (1, SlotRun(8, 0))]),  # strides are never negative
        ([8, None, 32], [(3, None)]),
        ([None], [(1, None)]),
    ],
)
def test_neighbours_share_a_call_where_their_slots_are_evenly_spaced(
    starts: list[int | None], calls: list[tuple[int, SlotRun | None]]
) -> None:
    assert split_evenly(starts) == calls


def test_slots_are_consecutive_when_pages_follow_each_other_up_to_the_last_row_read() -> None:
    metadata, _ = make_metadata([paged(4, 20), paged(4, 8), fresh(4), paged(2, 17)], seed=None)
    assert first_slots(metadata, 8) == [8, 32, None, 40]
    table = metadata.page_table.clone()
    table[0, 1], table[3, 2] = 6, 2
    swapped = replace(metadata, page_table=table)
    assert first_slots(swapped, 8) == [None, 32, None, None]
    # A page behind the last row read does not matter.
    table[3, 2] = 7
    short = replace(metadata, page_table=table, read_lens=(8, 8, 4, 16))
    assert first_slots(short, 8) == [8, 32, None, 40]
    gaps = replace(metadata, reads_prefix=(False, True, False, True))
    assert first_slots(gaps, 8) == [None, 32, None, 40]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS.keys())
def test_reading_in_place_gives_the_same_bits_as_gathering(
    lengths: list[Lengths], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(SHAPE, dtype=dtype)
    metadata, num_pages = make_metadata(lengths, page_size=8, seed=None)
    rows = sum(metadata.query_lens)
    query, key, value = (torch.randn(rows, n, 32, dtype=dtype) for n in (4, 2, 2))
    caches = torch.randn(2, num_pages, 8, 2, 32, dtype=dtype)
    hidden = replace(metadata, reads_prefix=(False,) * len(lengths))
    gathered = SdpaAttention(shape).plan(hidden).attend(query, key, value, *caches)

    def refuse(*_: object) -> None:
        raise AssertionError("slots were gathered")

    monkeypatch.setattr(ops, "gather_kv", refuse)
    in_place = SdpaAttention(shape).plan(metadata).attend(query, key, value, *caches)
    assert torch.equal(in_place, gathered)
    assert in_place.dtype == dtype
    assert in_place.is_contiguous()


def test_keys_of_many_rows_are_gathered() -> None:
    for rows, num_gathered in ((128, 0), (129, 129)):
        metadata, _ = make_metadata([paged(rows, rows)], page_size=8, seed=None)
        assert len(SdpaAttention(SHAPE).plan(metadata).gathered_slots) == num_gathered
