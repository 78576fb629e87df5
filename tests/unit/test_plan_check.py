"""validate_plan: which rows may be computed, written, read and scored together."""

import numpy as np
import pytest

from starr_engine._core import PagePool, PageTable, PlanError, root_key, validate_plan

Rows = list[tuple[int, int]]

# Twelve live rows in pages of four; the active block is the middle page.
ALL: Rows = [(0, 12)]
BLOCK: Rows = [(4, 8)]
REST: Rows = [(4, 12)]
NONE: Rows = []


def make_table(cached: Rows) -> PageTable:
    table = PageTable.try_create(PagePool(num_pages=16, page_size=4), 12)
    assert table is not None
    table.mark_written(cached)
    return table


def check(
    table: PageTable | None,
    *,
    query: Rows,
    write: Rows,
    read: Rows,
    score: Rows = NONE,
    dirty_allowed: bool = False,
    shadow: Rows = NONE,
    shadow_score: Rows = NONE,
) -> bool:
    return validate_plan(
        query, write, read, score, table, 12, (4, 8), dirty_allowed, shadow, shadow_score
    )


@pytest.mark.parametrize(
    ("cached", "query", "write", "is_paged"),
    [
        pytest.param(ALL, ALL, NONE, False, id="none"),
        pytest.param(NONE, ALL, ALL, True, id="refresh"),
        pytest.param(ALL, REST, REST, True, id="prefix"),
        pytest.param(ALL, BLOCK, BLOCK, True, id="dual"),
        pytest.param(ALL, [(2, 10)], [(2, 10)], True, id="vicinity"),
        pytest.param(ALL, [(1, 2), (5, 7)], [(1, 2), (5, 7)], True, id="delayed"),
    ],
)
def test_the_plan_of_each_cache_policy_is_accepted(
    cached: Rows, query: Rows, write: Rows, is_paged: bool
) -> None:
    assert check(make_table(cached), query=query, write=write, read=ALL) is is_paged


def test_without_a_table_all_rows_read_are_fresh() -> None:
    assert check(None, query=ALL, write=NONE, read=ALL, score=BLOCK) is False
    with pytest.raises(PlanError, match="write must be empty without a page table; first row 4"):
        check(None, query=ALL, write=BLOCK, read=ALL)
    with pytest.raises(PlanError, match="read must be a subset of query without a page table"):
        check(None, query=BLOCK, write=NONE, read=ALL)


@pytest.mark.parametrize("name", ["query", "write", "read", "score"])
def test_every_set_lies_in_the_live_rows(name: str) -> None:
    sets = {"query": ALL, "write": ALL, "read": ALL, "score": BLOCK} | {name: [(0, 2), (11, 13)]}
    with pytest.raises(PlanError, match=rf"{name} must lie in \[0, num_rows\); first row 12"):
        check(
            make_table(ALL),
            query=sets["query"],
            write=sets["write"],
            read=sets["read"],
            score=sets["score"],
        )


@pytest.mark.parametrize("bad", [[(3, 2)], [(-1, 2)], [(0, 4), (3, 6)], [(4, 6), (0, 2)]])
def test_ranges_that_are_no_set_are_refused_by_name(bad: Rows) -> None:
    with pytest.raises(PlanError, match="plan refused: read: "):
        check(make_table(ALL), query=ALL, write=ALL, read=bad)


def test_touching_and_empty_ranges_are_the_same_set() -> None:
    assert check(make_table(ALL), query=[(4, 6), (6, 6), (6, 8)], write=BLOCK, read=ALL)


def test_rows_that_are_written_or_scored_are_computed() -> None:
    with pytest.raises(PlanError, match="write must be a subset of query; first row 6"):
        check(make_table(ALL), query=[(0, 6)], write=BLOCK, read=ALL)
    with pytest.raises(PlanError, match="score must be a subset of query; first row 6"):
        check(make_table(ALL), query=[(0, 6)], write=[(0, 6)], read=ALL, score=BLOCK)


def test_rows_that_are_read_are_computed_or_cached() -> None:
    with pytest.raises(PlanError, match="a row read must be in query or cached; first row 8"):
        check(make_table([(0, 7)]), query=BLOCK, write=BLOCK, read=ALL)
    with pytest.raises(PlanError, match="read must not be empty while query is not"):
        check(make_table(ALL), query=BLOCK, write=BLOCK, read=NONE)


def test_shadow_rows_are_those_of_the_whole_active_block_or_none() -> None:
    assert check(
        make_table(ALL), query=BLOCK, write=BLOCK, read=ALL, shadow=BLOCK, shadow_score=[(5, 7)]
    )
    assert not check(None, query=ALL, write=NONE, read=ALL, shadow=BLOCK, shadow_score=BLOCK)
    with pytest.raises(PlanError, match="shadow must lie in the active block; first row 8"):
        check(None, query=ALL, write=NONE, read=ALL, shadow=[(4, 9)])
    with pytest.raises(
        PlanError, match="shadow must be empty or all of the active block; first row 5"
    ):
        check(None, query=ALL, write=NONE, read=ALL, shadow=[(4, 5), (6, 8)])
    with pytest.raises(PlanError, match=r"shadow must lie in \[0, num_rows\); first row 12"):
        check(None, query=ALL, write=NONE, read=ALL, shadow=[(4, 13)])
    with pytest.raises(PlanError, match="shadow_score must be a subset of shadow; first row 4"):
        check(None, query=ALL, write=NONE, read=ALL, shadow_score=[(4, 5)])
    # What a shadow row hides must be there to be hidden.
    with pytest.raises(
        PlanError,
        match=r"must be read when it has shadow rows; first row 7 .*"
        r"score=empty, shadow=\[4,8\), shadow_score=empty",
    ):
        check(make_table(ALL), query=BLOCK, write=BLOCK, read=[(0, 7)], shadow=BLOCK)


def test_reads_never_mix_pages_and_fresh_rows() -> None:
    bare = make_table([(0, 4), (8, 12)])
    with pytest.raises(PlanError, match=r"all fresh .* first row 4"):
        check(bare, query=BLOCK, write=NONE, read=ALL)
    with pytest.raises(PlanError, match=r"all fresh .* first row 6"):
        check(bare, query=BLOCK, write=[(4, 6)], read=ALL)
    # Rows 6 and 7 are computed but not read, so they need not be written.
    assert check(make_table(ALL), query=BLOCK, write=[(4, 6)], read=[(0, 6)])


def test_rows_computed_and_not_written_are_read_as_their_pages_hold_them() -> None:
    table = make_table(ALL)
    table.seal_prefix(4, np.arange(12, dtype=np.int32), 99, root_key(b"test"))
    assert check(table, query=[(3, 8)], write=BLOCK, read=ALL, score=[(3, 7)])
    table.mark_dirty(np.array([5], np.int32))
    assert check(table, query=BLOCK, write=[(5, 8)], read=ALL)
    with pytest.raises(PlanError, match=r"cached and clean.*; first row 5"):
        check(table, query=BLOCK, write=[(4, 5)], read=ALL)


def test_sealed_pages_are_read_but_never_written() -> None:
    table = make_table(ALL)
    table.seal_prefix(4, np.arange(12, dtype=np.int32), 99, root_key(b"test"))
    assert check(table, query=REST, write=REST, read=ALL)
    with pytest.raises(PlanError, match=r"SEALED page must not be written.* first row 3"):
        check(table, query=[(3, 8)], write=[(3, 8)], read=ALL)


def test_dirty_context_is_recomputed_or_declared() -> None:
    table = make_table(ALL)
    table.mark_dirty(np.array([7], np.int32))
    assert check(table, query=[(4, 6)], write=[(4, 6)], read=ALL)  # inside the active block
    table.mark_dirty(np.array([9], np.int32))
    with pytest.raises(PlanError, match=r"dirty row outside the active block .* first row 9"):
        check(table, query=BLOCK, write=BLOCK, read=ALL)
    assert check(table, query=BLOCK, write=BLOCK, read=ALL, dirty_allowed=True)
    assert check(table, query=[(4, 8), (9, 10)], write=[(4, 8), (9, 10)], read=ALL)
    assert check(table, query=BLOCK, write=BLOCK, read=[(0, 9), (10, 12)])


def test_a_refusal_names_all_four_sets() -> None:
    with pytest.raises(PlanError) as refusal:
        check(make_table(ALL), query=BLOCK, write=ALL, read=ALL, score=[(4, 5), (7, 8)])
    assert str(refusal.value) == (
        "plan refused: write must be a subset of query; first row 0 (query=[4,8), write=[0,12), "
        "read=[0,12), score=[4,5) [7,8), num_rows=12, active_block=[4,8))"
    )
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("num_rows", "block", "message"),
    [
        (12, (4, 13), "active_block must lie"),
        (12, (5, 4), "active_block must lie"),
        (13, (4, 8), "every live row, it has 12"),
    ],
)
def test_block_and_table_fit_the_live_rows(
    num_rows: int, block: tuple[int, int], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        validate_plan(ALL, ALL, ALL, NONE, make_table(ALL), num_rows, block)
