"""Checks of the ops on pages and on rows that moved against their references, for any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starr_engine import ops, ops_reference
from tests.helpers.op_cases import NUM_PAGES, PAGE_SIZE, make_pool, make_slots, shifted

# Row widths that are multiples of 16, 4 and 2 bytes in bfloat16, and empty rows.
WIDTHS = (32, 6, 3, 0)
# Sources and targets: none, one, several, and one page to many.
PAGE_COPIES = (([], []), ([1], [5]), ([0, 3, 5], [1, 4, 2]), ([2, 2, 2], [5, 0, 4]))
# [K, D]: a vector of 16 values and its neighbours, empty, and more than one round of a kernel.
SIMILARITY_ROWS = ((1, 1), (3, 5), (2, 8), (1, 17), (0, 4), (8, 128), (3, 701))
# Lengths of segments, around the 256 threads of a kernel.
SEGMENTS = ((), (0,), (1,), (0, 3, 0), (5, 1, 9), (255, 256, 257), (1000, 2, 513))


def make_feature_pages(device: torch.device, dtype: torch.dtype, width: int = 32) -> Tensor:
    """Pages [P, G, F] of one layer: a view of all, filled with noise."""
    return torch.randn(3, NUM_PAGES, PAGE_SIZE, width).to(device, dtype)[1]


def check_store_rows(rows: Tensor, pages: Tensor, slots: Tensor) -> None:
    expected = pages.clone()
    ops_reference.store_rows(rows, expected, slots)
    ops.store_rows(rows, pages, slots)
    assert torch.equal(pages, expected)


def check_store_rows_count(device: torch.device, dtype: torch.dtype, num_rows: int) -> None:
    slots = make_slots(num_rows)
    slots[1::3] = -1
    rows = torch.randn(num_rows, 32).to(device, dtype)
    check_store_rows(rows, make_feature_pages(device, dtype), slots.to(device))


def check_store_rows_width(device: torch.device, width: int) -> None:
    rows = torch.randn(5, width).to(device, torch.bfloat16)
    pages = make_feature_pages(device, torch.bfloat16, width)
    check_store_rows(rows, pages, make_slots(5).to(device))


def check_store_rows_apart(device: torch.device) -> None:
    slots = make_slots(9).to(device)
    wide = torch.randn(9, 101).to(device, torch.bfloat16)
    pages = make_feature_pages(device, torch.bfloat16)
    check_store_rows(wide[:, 5:37], pages, slots)  # aligned to two bytes only
    check_store_rows(wide[:1, :32].expand(9, 32), pages, slots)  # all from one row


def check_store_rows_stores_values_alone(device: torch.device) -> None:
    k_cache, v_cache = make_pool(device, torch.float32)
    fused = torch.randn(9, 96).to(device)
    key, value = fused[:, :32].unflatten(1, (2, 16)), fused[:, 64:].unflatten(1, (2, 16))
    slots = make_slots(9).to(device)
    expected = k_cache.clone(), v_cache.clone()
    ops_reference.store_kv(key, value, *expected, slots)
    before = k_cache.clone()
    ops.store_rows(value.flatten(1), v_cache.flatten(2), slots)
    assert torch.equal(v_cache, expected[1])
    assert torch.equal(k_cache, before)
    ops.store_rows(key.flatten(1), k_cache.flatten(2), slots)
    assert torch.equal(k_cache, expected[0])


def check_alignments(device: torch.device, shift: int) -> None:
    """One tensor at a time lies where no vector of 16 bytes can be read or written."""
    pages = make_feature_pages(device, torch.bfloat16)
    rows, slots = torch.randn(9, 32).to(device, torch.bfloat16), make_slots(9).to(device)
    apart = torch.randn(9, 32 + shift).to(device, torch.bfloat16)[:, :32]
    off_rows, off_pages = shifted(rows, shift), shifted(pages, shift)
    for some_rows, some_pages in ((off_rows, pages), (rows, off_pages), (apart, pages)):
        check_store_rows(some_rows, some_pages.clone() if some_pages is pages else off_pages, slots)
        cache = some_pages.unflatten(2, (2, 16))
        check_similarity(some_rows.unflatten(1, (2, 16)), cache, slots)
    assert torch.equal(
        ops.gather_rows(off_pages, slots), ops_reference.gather_rows(off_pages, slots)
    )
    all_pages = shifted(torch.randn(1, 2, 3, 2, 2, 16).to(device, torch.bfloat16), shift)
    expected = all_pages.clone()
    ops_reference.copy_pages(expected, [2], [0])
    ops.copy_pages(all_pages, [2], [0])
    assert torch.equal(all_pages, expected)


def check_gather_rows(device: torch.device, dtype: torch.dtype, count: int, width: int) -> None:
    pages = make_feature_pages(device, dtype, width)
    slots = torch.randint(NUM_PAGES * PAGE_SIZE, (count,), device=device)  # repeats too
    got = ops.gather_rows(pages, slots)
    assert got.is_contiguous()
    assert torch.equal(got, ops_reference.gather_rows(pages, slots))


def check_copy_pages(
    device: torch.device,
    dtype: torch.dtype,
    source: Sequence[int],
    target: Sequence[int],
    *,
    num_pages: int = NUM_PAGES,
    row: tuple[int, int] = (2, 16),
    page_size: int = PAGE_SIZE,
) -> None:
    pages = torch.randn(3, 2, num_pages, page_size, *row).to(device, dtype)
    expected = pages.clone()
    ops_reference.copy_pages(expected, source, target)
    ops.copy_pages(pages, source, target)
    assert torch.equal(pages, expected)


def check_similarity(rows: Tensor, cache: Tensor, slots: Tensor) -> None:
    got = ops.row_similarity(rows, cache, slots)
    truth = ops_reference.row_similarity(rows, cache, slots)
    plain = ops_reference.row_similarity(rows, cache, slots, dtype=torch.float32)
    assert got.dtype == torch.float32
    assert got.shape == slots.shape
    assert torch.equal(got.isnan(), truth.isnan())
    number = ~truth.isnan()
    if number.any():
        assert got[number].abs().max() <= 1
        error = (got.double() - truth)[number].abs().max()
        torch_error = (plain.double() - truth)[number].abs().max()
        assert error <= 2 * torch_error + 1e-5


def check_row_similarity(
    device: torch.device, dtype: torch.dtype, row: tuple[int, int], num_rows: int
) -> None:
    """Rows from next to what is cached to something else, some of them not kept."""
    cache, _ = make_pool(device, dtype, row)
    slots = make_slots(num_rows).to(device)
    noise = torch.logspace(-3, 1, num_rows)[:, None, None] * torch.randn(num_rows, *row)
    rows = (cache.flatten(0, 1)[slots].float() + noise.to(device)).to(dtype)
    slots[1::3] = -1
    check_similarity(rows, cache, slots)


def check_row_similarity_apart(device: torch.device, dtype: torch.dtype) -> None:
    cache, _ = make_pool(device, dtype)
    slots = make_slots(9).to(device)
    fused = torch.randn(9, 128).to(device, dtype)
    check_similarity(fused[:, 96:].unflatten(1, (2, 16)), cache, slots)
    narrow = torch.randn(9, 101).to(device, dtype)
    check_similarity(narrow[:, 5:37].unflatten(1, (2, 16)), cache, slots)


def check_rows_that_did_not_change(device: torch.device, dtype: torch.dtype) -> None:
    cache, _ = make_pool(device, dtype, (3, 701))
    slots = make_slots(NUM_PAGES * PAGE_SIZE).to(device)
    rows = cache.flatten(0, 1)[slots]
    assert ops.row_similarity(rows, cache, slots).tolist() == [1.0] * len(slots)
    assert ops.row_similarity(-rows, cache, slots).tolist() == [-1.0] * len(slots)


def check_special_rows(device: torch.device, dtype: torch.dtype) -> None:
    """Zeros, NaN, infinities, subnormal numbers, and slots that are not kept."""
    nan, inf = float("nan"), float("inf")
    tiny = torch.finfo(torch.float16).smallest_normal / 8  # subnormal in float16
    cached = [[0, 0], [0, 0], [1, 2], [1, 2], [nan, 2], [0, 0], [1, inf], [tiny, 0], [3, 4]]
    fresh = [[0, 0], [1, 2], [0, 0], [-2, 1], [1, 2], [1, nan], [1, 2], [1, 0], [nan, 1]]
    cache = torch.tensor(cached).view(3, 3, 1, 2).to(device, dtype)
    slots = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, -1], device=device)
    rows = torch.tensor(fresh).view(9, 1, 2).to(device, dtype)
    expected = torch.tensor([1, 0, 0, 0, nan, nan, nan, 1, 1], device=device)
    got = ops.row_similarity(rows, cache, slots)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6, equal_nan=True)
    truth = ops_reference.row_similarity(rows, cache, slots).float()
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-6, equal_nan=True)


def check_every_float16(device: torch.device, step: int = 1) -> None:
    """Each of the 65,536 bit patterns, beside a number of its size, has float32's direction."""
    bits = torch.arange(-(2**15), 2**15, step, dtype=torch.int32)
    pairs = torch.stack([bits, bits ^ 0x155], 1).to(torch.int16).view(torch.float16)
    cache, slots = pairs.view(-1, 1, 1, 2).to(device), torch.arange(len(bits), device=device)
    rows = torch.tensor([1.0, 0.0], device=device).expand(len(bits), 1, 2)
    got = ops.row_similarity(rows.half(), cache, slots)
    expected = ops.row_similarity(rows, cache.float(), slots)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def check_select_lowest(values: Tensor, cu_rows: Sequence[int], counts: Sequence[int]) -> None:
    got = ops.select_lowest(values, cu_rows, counts)
    assert got.dtype == torch.int64
    assert torch.equal(got, ops_reference.select_lowest(values, cu_rows, counts))


def check_select_lowest_of_segments(
    device: torch.device, lengths: Sequence[int], share: float
) -> None:
    """Random values, many of them equal, with NaN, infinities and both zeros among them."""
    cu_rows = [0, *torch.tensor([0, *lengths]).cumsum(0)[1:].tolist()]
    counts = [round(share * length) for length in lengths]
    size = cu_rows[-1]
    special = torch.tensor([float("nan"), -float("inf"), float("inf"), 0.0, -0.0, -float("nan")])
    for values in (
        torch.randn(size),
        torch.randn(size) * 1e30,
        torch.randint(-2, 3, (size,)).float(),
        torch.where(torch.rand(size) < 0.5, special[torch.randint(6, (size,))], torch.randn(size)),
        torch.zeros(size),
    ):
        check_select_lowest(values.to(device), cu_rows, counts)


OPCHECK_CASES = ("store_rows", "gather_rows", "copy_pages", "row_similarity", "select_lowest")


def check_registration(device: torch.device, case: str, checks: str = "ALL") -> None:
    """Schema, mutated arguments, fake implementation and compilation of one op."""
    pages = make_feature_pages(device, torch.float32).clone()
    slots = make_slots(5).to(device)
    rows = torch.randn(5, 32).to(device)
    cache = pages.unflatten(2, (2, 16))
    arguments = {
        "store_rows": (rows, pages, slots),
        "gather_rows": (pages, slots),
        "copy_pages": (torch.randn(2, 2, 4, 3, 2, 5).to(device), [1, 1], [3, 0]),
        "row_similarity": (rows.unflatten(1, (2, 16)), cache, slots),
        "select_lowest": (rows[0].clone(), [0, 10, 32], [3, 0]),
    }[case]
    results = torch.library.opcheck(
        getattr(torch.ops.starr_engine, case).default,
        arguments,
        test_utils=checks,
        raise_exception=True,
    )
    assert set(results.values()) == {"SUCCESS"}
