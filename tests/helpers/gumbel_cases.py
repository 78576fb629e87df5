"""Checks of ``ops.gumbel_argmax`` against its reference, for any device."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine import ops, ops_reference

DTYPES = (torch.float32, torch.bfloat16)
# [M, V]: one entry, around a vector of 16 bytes and the threads of a block.
SHAPES = ((1, 1), (3, 2), (9, 15), (9, 17), (4, 511), (4, 1025), (2, 5000))
FORBIDDEN = (-1, 0, -2)
"""None, the first, and the last."""

_INF, _NAN = float("inf"), float("nan")


def keys(count: int, seed: int = 0) -> Tensor:
    """int64 [count], of all 64 bits."""
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(0, 2**32, (2, count), generator=generator)
    return halves[0] << 32 | halves[1]


def whole(temperatures: Tensor) -> Tensor:
    """Options [D, 4] of draws from all tokens."""
    options = torch.zeros((len(temperatures), 4), dtype=torch.float64, device=temperatures.device)
    options[:, 0], options[:, 1] = temperatures, 1.0
    return options


def check(
    logits: Tensor, rows: Tensor, draw_keys: Tensor, options: Tensor, forbidden: int
) -> Tensor:
    """Draw on the device of the logits, and hold it to the reference; returns the tokens."""
    others = [each.to(logits.device) for each in (rows, draw_keys, options)]
    tokens = ops.gumbel_argmax(logits, *others, forbidden)
    expected = ops_reference.gumbel_argmax(logits.cpu(), rows, draw_keys, options, forbidden)
    assert tokens.dtype == torch.int64
    assert tokens.device == logits.device
    assert tokens.tolist() == expected.tolist()
    return tokens


def check_shape(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, forbidden: int
) -> None:
    """Rows drawn several times, in any order, from cold to hot."""
    num_rows, vocab_size = shape
    generator = torch.Generator().manual_seed(vocab_size)
    logits = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    rows = torch.randint(0, num_rows, (2 * num_rows,), generator=generator)
    token = forbidden + vocab_size if forbidden == -2 else forbidden
    temperatures = torch.logspace(-2, 2, 2 * num_rows, dtype=torch.float64)
    drawn = check(logits, rows, keys(2 * num_rows), whole(temperatures), token)
    assert token == -1 or vocab_size == 1 or token not in drawn.tolist()


def check_flat_rows(device: torch.device, count: int = 20_000) -> None:
    """Where the noise alone decides, so that a bound that is too low would lose a token."""
    logits = torch.zeros((1, 64), device=device)
    rows, temperatures = torch.zeros(count, dtype=torch.int64), torch.ones(count).double()
    tokens = check(logits, rows, keys(count, seed=1), whole(temperatures), -1).cpu()
    expected = count / 64
    chi_square = ((tokens.bincount(minlength=64) - expected) ** 2 / expected).sum()
    assert chi_square < 103.4  # its 99.9th percentile with 63 degrees of freedom


TRUNCATIONS: dict[str, tuple[float, float, float]] = {
    "top_p": (0.9, 0, 0.0),
    "a small top_p": (0.05, 0, 0.0),
    "top_k": (1.0, 5, 0.0),
    "one": (1.0, 1, 0.0),
    "more than there are": (1.0, 10**9, 0.0),
    "min_p": (1.0, 0, 0.02),
    "all": (0.8, 40, 0.001),
}
"""top_p, top_k and min_p."""


def check_truncation(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, name: str
) -> None:
    """Rows from nearly certain to nearly flat, some of equal logits."""
    num_rows, vocab_size = shape
    generator = torch.Generator().manual_seed(vocab_size)
    scale = torch.logspace(1, -2, num_rows)[:, None]
    logits = (torch.randn(shape, generator=generator) * scale).to(device, dtype)
    logits[::3] = logits[::3].round(decimals=1)
    rows = torch.arange(num_rows).repeat(4)
    options = whole(torch.logspace(-1, 1, 4 * num_rows, dtype=torch.float64))
    options[:, 1:] = torch.tensor(TRUNCATIONS[name])
    check(logits, rows, keys(4 * num_rows), options, vocab_size - 1 if vocab_size > 1 else -1)


def check_odd_rows(device: torch.device) -> None:
    """Ties, and logits that are no numbers."""
    rows = {
        "a tie": ([0.0, 5.0, 5.0, 1.0], -1, 1),
        "a tie with the forbidden": ([0.0, 5.0, 5.0, 1.0], 1, 2),
        "one finite": ([-_INF, -_INF, -3.0, -_INF], -1, 2),
        "not a number": ([_NAN, 1.0, _NAN, 2.0], -1, 3),
        "infinite": ([0.0, _INF, 3.0, _INF], -1, 1),
        "nothing": ([-_INF, -_INF, _NAN, -_INF], -1, 0),
        "nothing but the forbidden": ([-_INF, 2.0, -_INF, _NAN], 1, 0),
    }
    cold = whole(torch.zeros(1, dtype=torch.float64, device=device))
    hot = torch.tensor([[1.0, 0.9, 2.0, 0.1]], dtype=torch.float64, device=device)
    at = torch.zeros(1, dtype=torch.int64, device=device)
    for name, (row, forbidden, expected) in rows.items():
        for dtype in DTYPES:
            logits = torch.tensor([row], device=device, dtype=dtype)
            assert ops.gumbel_argmax(logits, at, at, cold, forbidden).tolist() == [expected], name
            drawn = ops.gumbel_argmax(logits, at, at, hot, forbidden).tolist()
            assert drawn in ([expected], [row.index(max(row))]), name


def check_rows_apart(device: torch.device) -> None:
    """Views whose rows are not aligned to a vector."""
    for dtype in DTYPES:
        wide = torch.randn((7, 1100), generator=torch.Generator().manual_seed(2)).to(device, dtype)
        view = wide[::2, 13:1050]
        rows = torch.tensor([3, 0, 2])
        options = whole(torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64))
        check(view, rows, keys(3), options, 4)
        options[:, 1:] = torch.tensor([0.8, 300.0, 1e-3])
        check(view, rows, keys(3), options, 4)


def check_no_draws(device: torch.device) -> None:
    """Of no rows, and of none of some."""
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    for num_rows in (0, 3):
        logits = torch.zeros((num_rows, 5), device=device)
        options = whole(nothing.double())
        assert ops.gumbel_argmax(logits, nothing, nothing, options).shape == (0,)


def check_registration(device: torch.device, tests: str = "ALL") -> None:
    """Schema, fake implementation and compilation, or what ``tests`` names of it."""
    at = torch.tensor([1, 0], device=device)
    arguments = (torch.zeros((2, 7), device=device), 3, at, at, whole(at.double()))
    op = torch.ops.starr_engine.gumbel_argmax.default
    results = torch.library.opcheck(op, arguments, test_utils=tests, raise_exception=True)
    assert set(results.values()) == {"SUCCESS"}
