"""Where an output ends, block by block, with one letter per token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from starr_engine.engine.stopping import StopRule, Visible
from starr_engine.params import SamplingParams
from starr_engine.request import Request

MASK, EOS, LENGTH = 0, 1, 4


class Letters:
    """Token 97 is "a" and so on; EOS has no text, as a special token."""

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        shown = (token for token in token_ids if token != EOS or not skip_special_tokens)
        return "".join("." if token == EOS else chr(token) for token in shown)


def end_after(text: str, num_blocks: int, **changes: Any) -> Visible:
    """What shows after the first blocks of ``text`` (of four letters; "." is EOS)."""
    params = SamplingParams(max_tokens=12, block_length=LENGTH, **changes)
    request = Request("0", np.array([50], np.int32), params, MASK)
    ids = np.array([EOS if letter == "." else ord(letter) for letter in text], np.int32)
    for block in range(num_blocks):
        start = request.canvas.block_start
        positions = np.arange(start, start + LENGTH, dtype=np.int32)
        request.canvas.unmask(positions, ids[block * LENGTH : (block + 1) * LENGTH])
        request.commit_block()
    rule = StopRule((EOS,), Letters())  # type: ignore[arg-type]
    return rule.visible(request)


def seen(visible: Visible) -> tuple[str, str, str | None]:
    ids = "".join(chr(token) for token in visible.token_ids)
    return ids, visible.text, visible.finish_reason


def test_an_output_goes_on_until_the_last_block_is_committed() -> None:
    assert seen(end_after("abcdefghijkl", 0)) == ("", "", None)
    assert seen(end_after("abcdefghijkl", 2)) == ("abcdefgh", "abcdefgh", None)
    assert seen(end_after("abcdefghijkl", 3)) == ("abcdefghijkl", "abcdefghijkl", "length")


@pytest.mark.parametrize(
    ("text", "shown"), [(".bcd", ""), ("a.cd", "a"), ("abc.", "abc"), ("a...", "a")]
)
def test_nothing_shows_from_eos_on_wherever_it_stands_in_the_block(text: str, shown: str) -> None:
    assert seen(end_after(text, 1)) == (shown, shown, "stop")
    assert seen(end_after("wxyz" + text, 2)) == ("wxyz" + shown, "wxyz" + shown, "stop")


def test_eos_in_the_last_block_is_a_stop_and_not_the_length() -> None:
    assert seen(end_after("abcdefghijk.", 3))[2] == "stop"


def test_ignored_eos_stays_among_the_ids_and_ends_nothing() -> None:
    visible = end_after("ab.d", 1, ignore_eos=True)
    assert visible.token_ids.tolist() == [97, 98, EOS, 100]
    assert (visible.text, visible.finish_reason) == ("abd", None)


def test_stop_tokens_end_as_eos_does_and_the_first_of_all_counts() -> None:
    stops = (ord("c"), ord("b"), 2**70)
    assert seen(end_after("abc.", 1, stop_token_ids=stops)) == ("a", "a", "stop")
    assert seen(end_after("a.bc", 1, stop_token_ids=stops)) == ("a", "a", "stop")
    ignoring = end_after("a.bc", 1, stop_token_ids=(ord("c"),), ignore_eos=True)
    assert ignoring.token_ids.tolist() == [97, EOS, 98]
    explicit = end_after("a.bc", 1, stop_token_ids=(EOS,), ignore_eos=True)
    assert seen(explicit) == ("a", "a", "stop")


def test_a_stop_string_cuts_text_and_ids_even_across_blocks() -> None:
    assert seen(end_after("abcdefgh", 1, stop=("def",))) == ("abcd", "abcd", None)
    assert seen(end_after("abcdefgh", 2, stop=("def",))) == ("abc", "abc", "stop")
    assert seen(end_after("abcd", 1, stop=("abc",))) == ("", "", "stop")


def test_of_several_stop_strings_the_leftmost_counts() -> None:
    assert seen(end_after("abcdefgh", 2, stop=("g", "de", "f"))) == ("abc", "abc", "stop")


def test_a_stop_string_behind_eos_is_not_there() -> None:
    assert seen(end_after("ab.d", 1, stop=("d",))) == ("ab", "ab", "stop")


def test_what_may_begin_a_stop_string_is_not_sure_yet() -> None:
    visible = end_after("abcdefgh", 1, stop=("xyz", "q"))
    assert (visible.num_sure_ids, visible.num_sure_chars) == (2, 2)
    visible = end_after("abcdefgh", 1)
    assert (visible.num_sure_ids, visible.num_sure_chars) == (4, 4)
    visible = end_after("abcdefgh", 1, stop=("longer than all",))
    assert (visible.num_sure_ids, visible.num_sure_chars) == (0, 0)
    visible = end_after("ab.", 0, stop=("xyz",))
    assert (visible.num_sure_ids, visible.num_sure_chars) == (0, 0)
    visible = end_after("ab..", 1, stop=("xyz",))
    assert (visible.num_sure_ids, visible.num_sure_chars) == (2, 2)


def test_the_stop_string_stays_if_it_is_asked_for() -> None:
    kept = {"include_stop_str_in_output": True}
    assert seen(end_after("abcdefgh", 2, stop=("def",), **kept)) == ("abcdef", "abcdef", "stop")
    assert seen(end_after("abcd", 1, stop=("abc", "bcd"), **kept)) == ("abc", "abc", "stop")
    assert seen(end_after("abc.", 1, stop=("zz",), **kept)) == ("abc", "abc", "stop")


def test_a_stop_string_counts_only_if_it_ends_behind_min_tokens() -> None:
    assert seen(end_after("abcabcab", 2, stop=("abc",), min_tokens=3)) == ("abc", "abc", "stop")
    assert seen(end_after("abcabcab", 2, stop=("abc",), min_tokens=2)) == ("", "", "stop")
    assert seen(end_after("abcdefgh", 2, stop=("cd",), min_tokens=4))[2] is None
    # It may begin before: "cd" ends at the fourth token.
    assert seen(end_after("abcdefgh", 2, stop=("cd",), min_tokens=3)) == ("ab", "ab", "stop")
    assert seen(end_after("abcdefgh", 1, stop=("cd",), min_tokens=8))[2] is None
    assert seen(end_after("abcd" * 3, 3, stop=("d",), min_tokens=9)) == (
        "abcdabcdabc", "abcdabcdabc", "stop",
    )  # fmt: skip


def test_special_tokens_are_shown_on_request() -> None:
    visible = end_after("a.cd", 1, ignore_eos=True, skip_special_tokens=False)
    assert visible.text == "a.cd"
    assert end_after("a.cd", 1, ignore_eos=True).text == "acd"
