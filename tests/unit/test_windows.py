"""Windowed layers: random layouts of contexts, active blocks and shadow rows, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata, AttentionShape
from starr_engine.attention.reference import plain_attention
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.windows import RowLayout, WindowedStep
from starr_engine.engine.host_layout import visible_runs

HEADS, KV_HEADS, SIZE = 4, 2, 8


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, int, int, int, bool]:
    """Rows in front of the block, the block, the first row computed, shadow rows, and paged."""
    start, block = draw(st.integers(0, 20)), draw(st.integers(1, 5))
    paged = draw(st.booleans())
    first = draw(st.integers(0, start)) if paged else 0
    shadows = draw(st.sampled_from([0, block]))
    return start, block, first, shadows, paged


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=4), window=st.integers(1, 12))
def test_rows_see_their_window_and_canvas_rows_that_of_the_block(
    batch: list[tuple[int, int, int, int, bool]], window: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    positions: list[int] = []
    anchors: list[int] = []
    visible: list[int] = []
    slots: list[int] = []
    cu_query, cu_read, limited = [0], [0], []
    for start, block, first, shadows, paged in batch:
        live = start + block
        rows = [*range(first, live), *range(live - shadows, live)]
        positions += rows
        anchors += [min(row, start) for row in rows]
        visible += [live if row >= start else row + 1 for row in rows]
        cu_query.append(cu_query[-1] + len(rows))
        slots += range(len(slots), len(slots) + live) if paged else ()
        cu_read.append(len(slots))
        limited.append(int(first < start))
    shadow_lens = np.array([each[3] for each in batch], np.int32)
    layout = RowLayout(
        cu_query=np.array(cu_query, np.int32),
        cu_read=np.array(cu_read, np.int32),
        read_slots=np.array(slots, np.int64),
        visible=np.array(visible, np.int32),
        shadow_lens=shadow_lens,
        shadow_columns=np.array([each[0] if each[3] else 0 for each in batch], np.int32),
        limited=np.array(limited, np.int32),
    )
    cut, hidden = layout.cut(np.array(anchors, np.int32), window)
    assert len(cut.read_slots) == cut.cu_read[-1]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query = random(len(positions), HEADS, SIZE)
    key, value = (random(len(positions), KV_HEADS, SIZE) for _ in range(2))
    caches = [random(1, max(1, len(slots)), KV_HEADS, SIZE) for _ in range(2)]
    expected = torch.empty_like(query)
    for number, (start, block, _, shadows, paged) in enumerate(batch):
        a, b = cu_query[number], cu_query[number + 1]
        own = b - shadows
        if paged:
            read = slice(cu_read[number], cu_read[number + 1])
            keys, values = (cache[0, read] for cache in caches)
        else:
            keys, values = key[a:own], value[a:own]
        live = start + block
        sees = np.zeros((b - a, live + shadows), bool)
        for row in range(a, b):
            # Written out once more: who sees whom, by position.
            place = positions[row]
            is_canvas = place >= start
            oldest = (start if is_canvas else place) - window + 1
            newest = live - 1 if is_canvas else place
            sees[row - a, max(oldest, 0) : newest + 1] = True
            if row >= own:
                sees[row - a, live:] = True
                sees[row - a, place] = False
        expected[a:b] = plain_attention(
            query[a:b],
            torch.cat([keys, key[own:b]]),
            torch.cat([values, value[own:b]]),
            torch.from_numpy(sees),
        ).float()

    metadata = as_metadata(cut)
    step = WindowedStep(metadata=metadata, hidden=torch.from_numpy(hidden))
    found = step.attend(query, key, value, *caches)
    # A window of 1 leaves a shadow row that checks the block's only row with itself alone.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if not hidden.any():
        plain = SdpaAttention(shape()).plan(metadata).attend(query, key, value, *caches)
        torch.testing.assert_close(plain, expected, rtol=0, atol=1e-5)


def as_metadata(layout: RowLayout) -> AttentionMetadata:
    query_lens, paged = np.diff(layout.cu_query), np.diff(layout.cu_read)
    fresh = paged == 0
    return AttentionMetadata(
        cu_query=torch.from_numpy(layout.cu_query),
        cu_read=torch.from_numpy(layout.cu_read),
        read_slots=torch.from_numpy(layout.read_slots),
        slot_mapping=torch.full((int(layout.cu_query[-1]),), -1),
        page_table=torch.zeros((len(fresh), 1), dtype=torch.int32),
        query_lens=tuple(query_lens.tolist()),
        read_lens=tuple(np.where(fresh, query_lens - layout.shadow_lens, paged).tolist()),
        fresh=tuple(fresh.tolist()),
        shadow_lens=tuple(layout.shadow_lens.tolist()),
        visible=torch.from_numpy(layout.visible),
        limited=tuple((layout.limited != 0).tolist()),
        visible_runs=visible_runs(
            layout.visible, layout.cu_query, layout.shadow_lens, layout.limited
        ),
        reads_prefix=(False,) * len(fresh),
        shadow_columns=tuple(layout.shadow_columns.tolist()),
    )


def shape() -> AttentionShape:
    return AttentionShape(
        num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=SIZE, page_size=4, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("window", [3, 1000])
def test_slots_that_nobody_sees_are_not_read(window: int) -> None:
    layout = RowLayout(
        cu_query=np.array([0, 4], np.int32), cu_read=np.array([0, 20], np.int32),
        read_slots=np.arange(100, 120), visible=np.full(4, 20, np.int32),
        shadow_lens=np.zeros(1, np.int32), shadow_columns=np.zeros(1, np.int32),
        limited=np.zeros(1, np.int32),
    )  # fmt: skip
    cut, hidden = layout.cut(np.full(4, 16, np.int32), window)
    first = max(0, 16 - window + 1)
    assert cut.read_slots.tolist() == list(range(100 + first, 120))
    assert cut.visible.tolist() == [20 - first] * 4
    assert not hidden.any()
