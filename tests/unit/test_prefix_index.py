"""PrefixIndex and the hash chain: keys, collisions, longest match."""

from typing import Any

import numpy as np
import pytest

from starr_engine._core import PrefixIndex, extend, root_key

ROOT = root_key(b"test")


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def test_a_key_names_the_whole_prefix_under_one_identity() -> None:
    chain = extend(extend(ROOT, tokens(1, 2)), tokens(3, 4))
    assert chain == extend(extend(root_key(b"test"), tokens(1, 2)), tokens(3, 4))
    assert hash(chain) == hash(extend(extend(ROOT, tokens(1, 2)), tokens(3, 4)))
    assert chain != extend(extend(ROOT, tokens(3, 4)), tokens(1, 2))
    assert chain != extend(extend(root_key(b"other salt"), tokens(1, 2)), tokens(3, 4))
    assert len(bytes(chain)) == 16
    assert chain != 3


def test_identities_may_hold_any_byte() -> None:
    assert root_key(b"a\0b") != root_key(b"a\0c")
    assert root_key(b"") != root_key(b"\0")


def test_ten_thousand_pages_have_ten_thousand_keys() -> None:
    keys = {extend(ROOT, tokens(i, j)) for i in range(100) for j in range(100)}
    assert len(keys) == 10_000


def test_a_match_is_the_longest_chain_of_whole_pages() -> None:
    index, parent = PrefixIndex(num_pages=8, page_size=2), ROOT
    for page, pair in [(5, (1, 2)), (6, (3, 4)), (7, (5, 6))]:
        key = extend(parent, tokens(*pair))
        assert index.insert(page, key, parent, tokens(*pair)) == page
        parent = key
    assert index.match(ROOT, tokens(1, 2, 3, 4, 5, 6, 7)) == [5, 6, 7]
    assert index.match(ROOT, tokens(1, 2, 3, 4, 5)) == [5, 6]
    assert index.match(ROOT, tokens(1, 2, 3, 9, 5, 6)) == [5]
    assert index.match(ROOT, tokens()) == []
    index.erase(6)
    assert index.match(ROOT, tokens(1, 2, 3, 4, 5, 6)) == [5]
    assert (6 in index, len(index)) == (False, 2)


def test_the_first_page_of_a_content_stays_canonical() -> None:
    index, key = PrefixIndex(num_pages=8, page_size=2), extend(ROOT, tokens(1, 2))
    assert index.insert(3, key, ROOT, tokens(1, 2)) == 3
    assert index.insert(4, key, ROOT, tokens(1, 2)) == 3
    assert len(index) == 1


def test_a_key_collision_is_a_miss_and_never_a_wrong_page() -> None:
    index, key = PrefixIndex(num_pages=8, page_size=2), extend(ROOT, tokens(1, 2))
    assert index.insert(3, key, ROOT, tokens(1, 2)) == 3
    assert index.insert(4, key, ROOT, tokens(8, 9)) is None
    assert index.find(key, ROOT, tokens(8, 9)) is None
    assert index.find(key, key, tokens(1, 2)) is None  # another parent
    assert index.find(key, ROOT, tokens(1, 2)) == 3


def test_pages_outside_the_pool_and_partial_pages_are_refused() -> None:
    index = PrefixIndex(num_pages=4, page_size=2)
    for page in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"page {page} is outside \[1, 4\)"):
            index.insert(page, ROOT, ROOT, tokens(1, 2))
    with pytest.raises(ValueError, match="expected 2, got 3"):
        index.insert(1, ROOT, ROOT, tokens(1, 2, 3))
    with pytest.raises(ValueError, match="page 1 is not in the index"):
        index.erase(1)


WRONG: dict[str, Any] = {
    "int64": np.array([1, 2]),
    "uint32": np.array([1, 2], np.uint32),
    "float32": np.array([1, 2], np.float32),
    "swapped bytes": np.array([1, 2], ">i4"),
    "strided": np.arange(4, dtype=np.int32)[::2],
    "two dimensions": np.array([[1, 2]], np.int32),
    "scalar": np.int32(1),
    "unaligned": np.frombuffer(b"-" * 9, np.int32, count=2, offset=1),
    "list": [1, 2],
    "memoryview": memoryview(np.array([1, 2], np.int32)),
    "nothing": None,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_tokens_are_an_int32_vector_or_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"NDArray\[numpy.int32\]"):
        extend(ROOT, wrong)


def test_tokens_may_be_read_only_a_slice_a_subclass_or_none_at_all() -> None:
    key, every = extend(ROOT, tokens(1, 2)), tokens(0, 1, 2, 3)
    frozen = tokens(1, 2)
    frozen.flags.writeable = False
    for same in (frozen, every[1:3], tokens(1, 2).view(np.recarray)):
        assert extend(ROOT, same) == key
    assert extend(ROOT, every[:0]) == ROOT
