"""Plans and batches against the rules and the layout written with Python sets and lists."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine._core import (
    BatchBuilder,
    PagePool,
    PageTable,
    PlanError,
    root_key,
    validate_plan,
)

NUM_ROWS, PAGE_SIZE = 11, 3

RowSet = set[int]
Plan = tuple[RowSet, RowSet, RowSet, RowSet]

row_sets = st.sets(st.integers(0, NUM_ROWS - 1))
bounds = st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).map(sorted)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Mostly plausible plans: sets derived from each other, then perhaps one row changed."""
    query = draw(row_sets)
    write = draw(st.sampled_from([set(), query, {row for row in query if row % 2}]))
    read = draw(st.sampled_from([query, set(range(NUM_ROWS)), draw(row_sets)]))
    score = {row for row in query if row % 3}
    sets = [set(rows) for rows in (query, write, read, score)]
    if draw(st.booleans()):
        sets[draw(st.integers(0, 3))] ^= {draw(st.integers(0, NUM_ROWS - 1))}
    return sets[0], sets[1], sets[2], sets[3]


@st.composite
def tables(draw: st.DrawFn) -> tuple[PageTable, RowSet, RowSet, RowSet]:
    """A table of NUM_ROWS rows with its cached, dirty and sealed rows."""
    pool = PagePool(num_pages=16, page_size=PAGE_SIZE)
    pool.try_allocate(draw(st.integers(0, 3)))  # so that pages and rows do not line up
    table = PageTable.try_create(pool, NUM_ROWS)
    assert table is not None
    num_sealed = PAGE_SIZE * draw(st.integers(0, 2))
    table.mark_written([(0, num_sealed)])
    table.seal_prefix(num_sealed, np.zeros(NUM_ROWS, np.int32), 9, root_key(b"test"))
    written = {row for row in draw(row_sets) if row >= num_sealed}
    table.mark_written([(row, row + 1) for row in sorted(written)])
    cached, sealed = written | set(range(num_sealed)), set(range(num_sealed))
    dirty = draw(row_sets) & written if draw(st.booleans()) else set()
    table.mark_dirty(np.array(sorted(dirty), np.int32))
    return table, cached, dirty, sealed


@st.composite
def shadows(draw: st.DrawFn, block: RowSet) -> tuple[RowSet, RowSet]:
    """Shadow rows and which are scored: mostly none or those of the block."""
    shadow = draw(st.sampled_from([set(), block, block, draw(row_sets)]))
    score = {row for row in shadow if row % 2}
    if draw(st.integers(0, 4)) == 0:
        score = score ^ {draw(st.integers(0, NUM_ROWS - 1))}
    return set(shadow), score


def shadow_is_valid(shadow: RowSet, score: RowSet, read: RowSet, block: RowSet) -> bool:
    return score <= shadow and (not shadow or (shadow == block and block <= read))


def ranges(rows: RowSet) -> list[tuple[int, int]]:
    return [(row, row + 1) for row in sorted(rows)]


def is_valid(
    plan: Plan, cached: RowSet, dirty: RowSet, sealed: RowSet, block: RowSet, has_table: bool
) -> bool:
    query, write, read, score = plan
    if not (write <= query and score <= query and read <= query | cached):
        return False
    if query and not read:
        return False
    if not has_table:
        return not write and read == query
    fresh, paged = not write and read == query, query & read <= write | (cached - dirty)
    return (fresh or paged) and not write & sealed and not (read - query) & dirty - block


@settings(max_examples=500, deadline=None)
@given(
    table=tables(),
    plan=plans(),
    block=bounds,
    dirty_allowed=st.booleans(),
    bare=st.booleans(),
    data=st.data(),
)
def test_a_plan_is_accepted_exactly_when_the_rules_hold(
    table: tuple[PageTable, RowSet, RowSet, RowSet],
    plan: Plan,
    block: list[int],
    dirty_allowed: bool,
    bare: bool,
    data: st.DataObject,
) -> None:
    paged, cached, dirty, sealed = table
    shadow, shadow_score = data.draw(shadows(set(range(*block))))
    expected = is_valid(
        plan,
        set() if bare else cached,
        set() if dirty_allowed else dirty,
        sealed,
        set(range(*block)),
        not bare,
    ) and shadow_is_valid(shadow, shadow_score, plan[2], set(range(*block)))
    query, write, read, score = map(ranges, plan)
    used, active = None if bare else paged, (block[0], block[1])
    try:
        from_pages = validate_plan(
            query, write, read, score, used, NUM_ROWS, active, dirty_allowed, ranges(shadow),
            ranges(shadow_score),
        )  # fmt: skip
    except PlanError:
        assert not expected
    else:
        assert expected
        assert from_pages == (not bare and bool(plan[1] or plan[2] != plan[0]))


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.none() | tables(), plans(), bounds), max_size=5),
    mask_block=st.sampled_from([0, 1, 3, 4, 100]),
    data=st.data(),
)
def test_a_batch_is_laid_out_as_plain_lists_would_be(
    requests: list[tuple[tuple[PageTable, RowSet, RowSet, RowSet] | None, Plan, list[int]]],
    mask_block: int,
    data: st.DataObject,
) -> None:
    builder = BatchBuilder(PAGE_SIZE, mask_block)
    visible: list[int] = []
    limited: list[bool] = []
    shadow_lens, shadow_columns = [], []
    ids: list[int] = []
    pages: list[list[int]] = []
    positions, slots, read_slots, cu_query, cu_read = [], [], [], [0], [0]
    logits, requests_of, score_rows = [], [], []
    shadow_logits, shadow_requests, shadow_rows = [], [], []
    for owner, plan, block in requests:
        table = owner[0] if owner is not None else None
        query, write, read, score = plan
        scored = np.array(sorted(score), np.int32)
        shadow, shadow_score = data.draw(shadows(set(range(*block))))
        shadow_scored = np.array(sorted(shadow_score), np.int32)
        tokens = np.arange(100, 100 + NUM_ROWS, dtype=np.int32) * (1 + len(pages))
        try:
            builder.add(
                table, tokens, ranges(query), ranges(write), ranges(read), scored,
                (block[0], block[1]), True, ranges(shadow), shadow_scored, 1000,
            )  # fmt: skip
        except PlanError:
            continue
        for row in sorted(query):
            if row in score:
                logits.append(len(ids))
                requests_of.append(len(pages))
                score_rows.append(row)
            ids.append(int(tokens[row]))
            positions.append(row)
            slots.append(table.slot(row) if table is not None and row in write else -1)
        for row in sorted(shadow):
            if row in shadow_score:
                shadow_logits.append(len(ids))
                shadow_requests.append(len(pages))
                shadow_rows.append(row)
            ids.append(1000)
            positions.append(row)
            slots.append(-1)
        is_paged = table is not None and bool(write or read != query)
        if table is not None and is_paged:
            read_slots += [table.slot(row) for row in sorted(read)]
        attended = sorted(read if is_paged else query)
        ends = [row - row % mask_block + mask_block if mask_block else NUM_ROWS for row in query]
        seen = [sum(row < end for row in attended) for end in sorted(ends)]
        visible += seen + [len(attended)] * len(shadow)
        limited.append(any(count < len(attended) for count in seen))
        shadow_lens.append(len(shadow))
        shadow_columns.append(attended.index(min(shadow)) if shadow else 0)
        pages.append(table.pages if table is not None and is_paged else [])
        cu_query.append(len(ids))
        cu_read.append(len(read_slots))
    width = max(map(len, pages), default=0)
    expected = {
        "input_ids": np.array(ids, np.int64),
        "positions": np.array(positions, np.int64),
        "slot_mapping": np.array(slots, np.int64),
        "cu_query": np.array(cu_query, np.int32),
        "cu_read": np.array(cu_read, np.int32),
        "read_slots": np.array(read_slots, np.int64),
        "page_table": np.array([row + [0] * (width - len(row)) for row in pages], np.int32).reshape(
            len(pages), width
        ),
        "logits_rows": np.array(logits + shadow_logits, np.int64),
        "score_request": np.array(requests_of + shadow_requests, np.int32),
        "score_positions": np.array(score_rows + shadow_rows, np.int32),
        "shadow_lens": np.array(shadow_lens, np.int32),
        "shadow_columns": np.array(shadow_columns, np.int32),
        "visible": np.array(visible, np.int32),
        "limited": np.array(limited, np.int32),
    }
    arrays: dict[str, np.ndarray] = {
        name: np.full_like(array, -7) for name, array in expected.items()
    }
    builder.fill(**arrays)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
