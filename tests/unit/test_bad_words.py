"""Sequences that must not appear on a canvas that fills in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.decoding.bad_words import BadWordGuard, BadWords

MASK = 0


def places(*values: int):
    return np.array(values, np.int64)


def forbidden(words: list[tuple[int, ...]], output: list[int], rows: list[int]) -> set:
    found = BadWords(words=tuple(words)).completions(
        np.array(output, np.int32), places(*rows), MASK
    )
    return {(rows[row], token) for row, token in zip(*map(np.ndarray.tolist, found), strict=True)}


def spare(words, output: list[int], put: dict[int, int], confidence: list[float]) -> list[bool]:
    kept = BadWords(words=tuple(words)).spare(
        np.array(output, np.int32),
        places(*put),
        np.array(list(put.values()), np.int32),
        np.array(confidence, np.float32),
        MASK,
    )
    return kept.tolist()


def test_the_completing_token_may_be_anywhere_in_the_word() -> None:
    assert forbidden([(7, 8, 9)], [7, 8, 0], [2]) == {(2, 9)}
    assert forbidden([(7, 8, 9)], [7, 0, 9], [1]) == {(1, 8)}
    assert forbidden([(7, 8, 9)], [0, 8, 9], [0]) == {(0, 7)}


def test_a_word_with_two_masks_forbids_nothing_yet() -> None:
    assert forbidden([(7, 8, 9)], [7, 0, 0], [1, 2]) == set()


def test_words_reach_into_the_blocks_on_both_sides_of_the_rows() -> None:
    assert forbidden([(7, 8)], [5, 7, 0, 0], [2, 3]) == {(2, 8)}
    assert forbidden([(7, 8)], [0, 0, 8, 5], [0, 1]) == {(1, 7)}


def test_only_rows_with_masks_are_told() -> None:
    assert forbidden([(7, 8)], [7, 0, 7, 0], [3]) == {(3, 8)}
    assert forbidden([(7, 8)], [7, 5, 7, 0], [0, 1, 2, 3]) == {(3, 8)}
    assert forbidden([(7, 8)], [7, 0], []) == set()


def test_a_word_longer_than_the_canvas_forbids_nothing() -> None:
    assert forbidden([(7, 8, 9, 7)], [7, 8, 0], [2]) == set()


def test_a_repeated_token_completes_from_either_side() -> None:
    assert forbidden([(7, 7)], [0, 7, 0], [0, 2]) == {(0, 7), (2, 7)}


def test_of_positions_that_complete_a_word_together_the_least_confident_waits() -> None:
    assert spare([(7, 8)], [0, 0], {0: 7, 1: 8}, [0.9, 0.4]) == [True, False]
    assert spare([(7, 8)], [0, 0], {0: 7, 1: 8}, [0.4, 0.9]) == [False, True]
    assert spare([(7, 8)], [0, 0], {0: 7, 1: 8}, [0.5, 0.5]) == [True, False]
    assert spare([(7, 8)], [0, 0], {0: 7, 1: 9}, [0.9, 0.4]) == [True, True]
    assert spare([(7, 5, 8)], [0, 5, 0], {0: 7, 2: 8}, [0.4, 0.9]) == [False, True]


def test_one_position_that_waits_may_break_up_several_words() -> None:
    kept = spare([(7, 8), (8, 9)], [0, 0, 0], {0: 7, 1: 8, 2: 9}, [0.9, 0.1, 0.8])
    assert kept == [True, False, True]
    kept = spare([(7, 7)], [0, 0, 0, 0], dict.fromkeys(range(4), 7), [0.4, 0.3, 0.2, 0.1])
    assert kept == [True, False, True, False]


def test_a_word_that_a_revocation_breaks_up_is_none() -> None:
    guard = BadWordGuard(
        bad_words=BadWords(words=((7, 8, 9),)),
        output_ids=np.array([5, 7, 0, 0], np.int32),
        block_start=1,
        mask_token_id=MASK,
    )
    put = (np.array([8, 9], np.int32), np.array([0.2, 0.3], np.float32))
    assert guard.spare(places(0), places(1, 2), *put).tolist() == [True, True]
    assert guard.spare(places(), places(1, 2), *put).tolist() == [False, True]


def contains(output: list[int], word: tuple[int, ...]) -> bool:
    size = len(word)
    return any(tuple(output[i : i + size]) == word for i in range(len(output) - size + 1))


words = st.lists(
    st.lists(st.integers(1, 3), min_size=2, max_size=4).map(tuple), min_size=1, max_size=4
)


@given(words=words, length=st.integers(1, 10), data=st.data())
def test_however_a_canvas_fills_no_word_appears_and_each_step_does_something(
    words: list[tuple[int, ...]], length: int, data: st.DataObject
) -> None:
    bad = BadWords(words=tuple(words))
    output = np.full(length, MASK, np.int32)
    while (masks := np.flatnonzero(output == MASK)).size:
        rows, tokens = bad.completions(output, masks, MASK)
        banned = set(zip(rows.tolist(), tokens.tolist(), strict=True))
        for row, place in enumerate(masks):  # the slow twin
            for token in (1, 2, 3):
                tried = output.copy()
                tried[place] = token
                assert ((row, token) in banned) == any(contains(tried.tolist(), w) for w in words)
        free = [[t for t in (1, 2, 3) if (row, t) not in banned] for row in range(len(masks))]
        if not all(free):
            return  # the request fails with its reason; see the engine's tests
        put = np.array([data.draw(st.sampled_from(each)) for each in free], np.int32)
        scores = st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(put), max_size=len(put))
        confidence = np.array(data.draw(scores), np.float32)
        kept = bad.spare(output, masks, put, confidence, MASK)
        assert kept[int(confidence.argmax())], "the most confident position always goes"
        output[masks[kept]] = put[kept]
        assert not any(contains(output.tolist(), word) for word in words)
