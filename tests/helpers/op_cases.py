"""Checks of the compiled ops against their references, for any device.

The error rule: a kernel may be at most twice as far from float64 as plain PyTorch in the same
dtype is, plus 1e-5 of the scale of the result.
"""

import torch
from torch import Tensor

from starr_engine import ops, ops_reference

PAGE_SIZE = 8
NUM_PAGES = 6
# None, one, and one below, at and above a page, and more than a page.
NUM_TOKENS = (0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE + 5)
CACHE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# [K, D] whose rows are 16, 4 and 2 bytes wide multiples in bfloat16, and empty.
ROW_SHAPES = ((2, 16), (1, 6), (3, 1), (0, 4))

LOGIT_DTYPES = (torch.float32, torch.bfloat16)
# [M, V]: no row, one entry, a vector of 16 and a chunk of 1024 logits and their neighbours.
LOGIT_SHAPES = (
    *((0, 10), (1, 1), (1, 2), (5, 15), (5, 16), (5, 17)),
    *((3, 1023), (3, 1024), (3, 1025), (70, 777), (2, 126_464)),
)
FORBIDDEN = ("none", "first", "last", "best")


def make_pool(
    device: torch.device, dtype: torch.dtype, row: tuple[int, int] = (2, 16)
) -> tuple[Tensor, Tensor]:
    """Key and value cache [P, G, K, D] of one layer: views of one pool, filled with noise."""
    pool = torch.randn(3, 2, NUM_PAGES, PAGE_SIZE, *row).to(device, dtype)
    return pool[1, 0], pool[1, 1]


def make_slots(count: int) -> Tensor:
    """Distinct slots in random order."""
    return torch.randperm(NUM_PAGES * PAGE_SIZE)[:count]


def _check_store(key: Tensor, value: Tensor, caches: tuple[Tensor, Tensor], slots: Tensor) -> None:
    expected = tuple(cache.clone() for cache in caches)
    ops_reference.store_kv(key, value, *expected, slots)
    ops.store_kv(key, value, *caches, slots)
    assert torch.equal(caches[0], expected[0])
    assert torch.equal(caches[1], expected[1])


def check_store_kv(device: torch.device, dtype: torch.dtype, num_tokens: int) -> None:
    key, value = torch.randn(2, num_tokens, 2, 16).to(device, dtype)
    slots = make_slots(num_tokens)
    slots[1::3] = -1
    _check_store(key, value, make_pool(device, dtype), slots.to(device))


def check_store_kv_row_shape(device: torch.device, row: tuple[int, int]) -> None:
    key, value = torch.randn(2, 5, *row).to(device, torch.bfloat16)
    _check_store(key, value, make_pool(device, torch.bfloat16, row), make_slots(5).to(device))


def check_store_kv_fused_projection(device: torch.device) -> None:
    # [T, query + key + value] as one matrix product leaves it.
    fused = torch.randn(9, 64 + 32 + 32).to(device)
    key, value = fused[:, 64:96].unflatten(1, (2, 16)), fused[:, 96:].unflatten(1, (2, 16))
    assert not key.is_contiguous()
    _check_store(key, value, make_pool(device, torch.float32), make_slots(9).to(device))
    # One byte offset that no wide copy is aligned to.
    narrow = torch.randn(9, 101).to(device, torch.bfloat16)
    key, value = narrow[:, 5:37].unflatten(1, (2, 16)), narrow[:, 37:69].unflatten(1, (2, 16))
    _check_store(key, value, make_pool(device, torch.bfloat16), make_slots(9).to(device))


def shifted(values: Tensor, by: int) -> Tensor:
    """The same values, contiguous, ``by`` elements behind an address aligned to every vector."""
    copy = values.new_empty(by + values.numel())[by:].view(values.shape)
    return copy.copy_(values)


# Elements of two bytes by which an address is off 16 bytes.
SHIFTS = (1, 2, 4)


def check_kv_alignments(device: torch.device, shift: int) -> None:
    """One tensor at a time lies where no vector of 16 bytes can be read or written."""
    key, value = torch.randn(2, 9, 2, 16).to(device, torch.bfloat16)
    slots = make_slots(9).to(device)
    for unaligned in range(4):
        tensors = [key, value, *make_pool(device, torch.bfloat16)]
        tensors[unaligned] = shifted(tensors[unaligned], shift)
        _check_store(*tensors[:2], (tensors[2], tensors[3]), slots)
        for got, expected in zip(
            ops.gather_kv(*tensors[2:], slots),
            ops_reference.gather_kv(*tensors[2:], slots),
            strict=True,
        ):
            assert torch.equal(got, expected)
    # The first row is aligned, the others are not.
    apart = torch.randn(9, 32 + shift).to(device, torch.bfloat16)[:, :32].unflatten(1, (2, 16))
    _check_store(apart, value, make_pool(device, torch.bfloat16), slots)
    _check_store(key, apart, make_pool(device, torch.bfloat16), slots)


def check_gather_kv(device: torch.device, dtype: torch.dtype, num_slots: int) -> None:
    caches = make_pool(device, dtype)
    slots = torch.randint(NUM_PAGES * PAGE_SIZE, (num_slots,), device=device)  # repeats too
    for got, expected in zip(
        ops.gather_kv(*caches, slots), ops_reference.gather_kv(*caches, slots), strict=True
    ):
        assert got.is_contiguous()
        assert torch.equal(got, expected)


def _forbidden_token(name: str, logits: Tensor) -> int:
    vocab_size = logits.shape[1]
    if name == "best" and logits.shape[0] > 0:
        return int(logits[0].argmax())
    return {"first": 0, "last": vocab_size - 1}.get(name, -1)


def _check_against_truth(logits: Tensor, forbidden_token: int) -> None:
    got = ops.logits_statistics(logits, forbidden_token)
    truth = ops_reference.logits_statistics(logits, forbidden_token)
    plain = ops_reference.logits_statistics(logits, forbidden_token, dtype=logits.dtype)
    assert got.candidate.dtype == torch.int64
    assert torch.equal(got.candidate, truth[0])
    for name, mine, true, torchs in zip(
        got._fields[1:], got[1:], truth[1:], plain[1:], strict=True
    ):
        assert mine.dtype == torch.float32
        assert mine.shape == true.shape
        assert torch.equal(mine.isnan(), true.isnan()), name
        has_value = ~true.isnan()
        if not has_value.any():
            continue
        true = true[has_value]
        error = (mine[has_value].double() - true).abs().max()
        torch_error = (torchs[has_value].double() - true).abs().nan_to_num(0.0, 0.0, 0.0).max()
        # An entropy is a difference of numbers near 1, even where it is nearly 0.
        scale = max(true.abs().max(), 1.0) if name == "entropy" else true.abs().max()
        assert error <= 2 * torch_error + 1e-5 * scale, name


def check_logits_statistics(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, forbidden: str
) -> None:
    # Rows from nearly flat to nearly certain.
    scale = torch.logspace(-2, 1.5, shape[0]).unsqueeze(1)
    logits = (torch.randn(shape) * scale).to(device, dtype)
    _check_against_truth(logits, _forbidden_token(forbidden, logits))


_INF, _NAN = float("inf"), float("nan")
_BIG = 3e38  # near the largest float32; twice it overflows


def _with(vocab_size: int, fill: float, changes: dict[int, float]) -> list[float]:
    row = [fill] * vocab_size
    for index, value in changes.items():
        row[index] = value
    return row


# Rows, forbidden token, and what must come out: candidate and, where it is exact, top-1.
SPECIAL_LOGITS: dict[str, tuple[list[float], int, int, float | None]] = {
    "all_equal": (_with(40, 1.5, {}), -1, 0, 1 / 40),
    "tie_far_apart": (_with(3000, 0.0, {20: 50.0, 2500: 50.0}), -1, 20, 0.5),
    "tie_at_a_chunk_edge": (_with(3000, 0.0, {1023: 50.0, 1024: 50.0}), -1, 1023, 0.5),
    "tie_with_the_forbidden": (_with(40, 0.0, {3: 50.0, 9: 50.0}), 3, 9, 1.0),
    "forbidden_towers": (_with(40, -_INF, {3: _BIG, 9: 0.0}), 3, 9, 1.0),
    # Steps of ten, so that the values are exact in bfloat16 too.
    "rising": ([i // 10 * 0.25 for i in range(2000)], -1, 1990, None),
    "falling": ([i // 10 * -0.25 for i in range(2000)], -1, 0, None),
    "huge_range": (_with(2000, -_BIG, {1500: _BIG}), -1, 1500, 1.0),
    "lowest_everywhere": (_with(20, -_BIG, {}), -1, 0, 1 / 20),
    "one_finite": (_with(2000, -_INF, {1999: -5.0}), -1, 1999, 1.0),
    "minus_infinity_first": (_with(3000, -_INF, {2900: 1.0, 2950: 1.0}), -1, 2900, 0.5),
    "minus_infinity_only": (_with(2000, -_INF, {}), -1, 0, _NAN),
    "minus_infinity_but_the_forbidden": (_with(20, -_INF, {0: 1.0}), 0, 1, _NAN),
    "only_the_forbidden": ([2.0], 0, 0, _NAN),
    "plus_infinity": (_with(2000, 0.0, {1200: _INF, 1300: _INF}), -1, 1200, _NAN),
    "nan": (_with(2000, 0.0, {5: 90.0, 1100: _NAN, 1900: _NAN}), -1, 1100, _NAN),
    "nan_after_minus_infinity": (_with(2000, -_INF, {1500: _NAN}), -1, 1500, _NAN),
    "nan_beside_infinity": (_with(2000, 0.0, {3: _INF, 1500: _NAN}), -1, 1500, _NAN),
    "nan_in_the_forbidden": (_with(40, 0.0, {3: _NAN, 9: 50.0}), 3, 9, 1.0),
}


def check_special_logits(device: torch.device, name: str, dtype: torch.dtype) -> None:
    row, forbidden_token, candidate, top1 = SPECIAL_LOGITS[name]
    logits = torch.tensor([row], device=device).to(dtype)
    got = ops.logits_statistics(logits, forbidden_token)
    assert got.candidate.tolist() == [candidate]
    if top1 is not None:
        expected = torch.tensor([top1], device=device)
        torch.testing.assert_close(got.top1, expected, rtol=1e-6, atol=0.0, equal_nan=True)
    _check_against_truth(logits, forbidden_token)


def check_strided_logits(device: torch.device, dtype: torch.dtype) -> None:
    wide = torch.randn(7, 1100).to(device, dtype)
    view = wide[::2, 13:1050]  # rows apart, and not aligned to a vector
    contiguous = view.contiguous()
    for mine, expected in zip(
        ops.logits_statistics(view, 4), ops.logits_statistics(contiguous, 4), strict=True
    ):
        # Another alignment may add in another order.
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def check_rows_are_independent(device: torch.device) -> None:
    logits = torch.randn(33, 2000).to(device)
    together = ops.logits_statistics(logits, 5)
    for row in (0, 1, 32):
        alone = ops.logits_statistics(logits[row : row + 1].clone(), 5)
        for all_rows, one_row in zip(together, alone, strict=True):
            assert torch.equal(all_rows[row : row + 1], one_row)


OPCHECK_CASES = ("store_kv", "gather_kv", "logits_statistics")


def check_registration(device: torch.device, case: str, checks: str = "ALL") -> None:
    """Schema, mutated arguments, fake implementation and compilation of one op."""
    k_cache, v_cache = (cache.clone() for cache in make_pool(device, torch.float32))
    slots = make_slots(5).to(device)
    rows = torch.randn(5, 2, 16).to(device)
    arguments = {
        "store_kv": (rows, -rows, k_cache, v_cache, slots),
        "gather_kv": (k_cache, v_cache, slots),
        "logits_statistics": (torch.randn(4, 50).to(device), 3),
    }[case]
    results = torch.library.opcheck(
        getattr(torch.ops.starr_engine, case).default,
        arguments,
        test_utils=checks,
        raise_exception=True,
    )
    assert set(results.values()) == {"SUCCESS"}
