"""The compiled ops against their PyTorch references; tests/gpu runs the same cases on CUDA."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from starr_engine import ops, ops_reference
from starr_engine.errors import KernelError
from tests.helpers import op_cases

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", op_cases.CACHE_DTYPES)
@pytest.mark.parametrize("num_tokens", op_cases.NUM_TOKENS)
def test_store_kv_writes_what_the_reference_writes(num_tokens: int, dtype: torch.dtype) -> None:
    op_cases.check_store_kv(CPU, dtype, num_tokens)


@pytest.mark.parametrize("shape", op_cases.ROW_SHAPES)
def test_store_kv_copies_rows_of_any_width(shape: tuple[int, int]) -> None:
    op_cases.check_store_kv_row_shape(CPU, shape)


def test_store_kv_takes_views_of_a_fused_projection() -> None:
    op_cases.check_store_kv_fused_projection(CPU)


@pytest.mark.parametrize("shift", op_cases.SHIFTS)
def test_keys_and_values_may_lie_at_any_address(shift: int) -> None:
    op_cases.check_kv_alignments(CPU, shift)


@pytest.mark.parametrize("dtype", op_cases.CACHE_DTYPES)
@pytest.mark.parametrize("num_slots", op_cases.NUM_TOKENS)
def test_gather_kv_reads_what_the_reference_reads(num_slots: int, dtype: torch.dtype) -> None:
    op_cases.check_gather_kv(CPU, dtype, num_slots)


@pytest.mark.parametrize("forbidden", op_cases.FORBIDDEN)
@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
@pytest.mark.parametrize("shape", op_cases.LOGIT_SHAPES)
def test_logits_statistics_is_as_exact_as_torch(
    shape: tuple[int, int], dtype: torch.dtype, forbidden: str
) -> None:
    op_cases.check_logits_statistics(CPU, shape, dtype, forbidden)


@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
@pytest.mark.parametrize("name", op_cases.SPECIAL_LOGITS)
def test_logits_statistics_of_special_rows(name: str, dtype: torch.dtype) -> None:
    op_cases.check_special_logits(CPU, name, dtype)


@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
def test_logits_statistics_of_rows_that_lie_apart(dtype: torch.dtype) -> None:
    op_cases.check_strided_logits(CPU, dtype)


def test_logits_statistics_of_a_row_do_not_depend_on_the_other_rows() -> None:
    op_cases.check_rows_are_independent(CPU)


def test_logits_statistics_do_not_depend_on_the_number_of_threads() -> None:
    logits = torch.randn(64, 3001)
    torch.set_num_threads(1)
    alone = ops.logits_statistics(logits)
    torch.set_num_threads(2)
    assert all(map(torch.equal, alone, ops.logits_statistics(logits)))


def test_logits_statistics_leaves_its_argument_alone() -> None:
    logits = torch.randn(3, 100)
    before = logits.clone()
    ops.logits_statistics(logits, forbidden_token=7)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("case", op_cases.OPCHECK_CASES)
def test_ops_are_registered_as_torch_expects(case: str) -> None:
    op_cases.check_registration(CPU, case)


def _store(change: Callable[[dict[str, Tensor]], None]) -> Callable[[], object]:
    arguments = {
        "key": torch.zeros(2, 3, 4),
        "value": torch.zeros(2, 3, 4),
        "k_cache": torch.zeros(5, 8, 3, 4),
        "v_cache": torch.zeros(5, 8, 3, 4),
        "slot_mapping": torch.tensor([1, 2]),
    }
    change(arguments)
    return lambda: ops.store_kv(**arguments)


WRONG_CALLS = {
    "store_kv: key must be [T, K, D], got 2 dimensions": _store(
        lambda a: a.update(key=torch.zeros(2, 12))
    ),
    "store_kv: value must be [2, 3, 4] for this slot_mapping and cache, got [3, 3, 4]": _store(
        lambda a: a.update(value=torch.zeros(3, 3, 4))
    ),
    "store_kv: key is BFloat16, the cache is Float": _store(
        lambda a: a.update(key=a["key"].bfloat16())
    ),
    "store_kv: k_cache must be [P, G, K, D], got 3 dimensions": _store(
        lambda a: a.update(k_cache=torch.zeros(40, 3, 4))
    ),
    "store_kv: k_cache and v_cache must have one shape; dimension 0 is 5 and 6": _store(
        lambda a: a.update(v_cache=torch.zeros(6, 8, 3, 4))
    ),
    "store_kv: k_cache and v_cache must each be contiguous": _store(
        lambda a: a.update(k_cache=torch.zeros(5, 8, 4, 3).transpose(2, 3))
    ),
    "store_kv: the last two dimensions of key must be contiguous, got strides 1 and 3": _store(
        lambda a: a.update(key=torch.zeros(2, 4, 3).transpose(1, 2))
    ),
    "store_kv: slot_mapping must be int64, got Int": _store(
        lambda a: a.update(slot_mapping=a["slot_mapping"].int())
    ),
    "store_kv: slot_mapping must be a contiguous vector, got 2 dimensions": _store(
        lambda a: a.update(slot_mapping=torch.zeros(1, 2, dtype=torch.int64))
    ),
    "store_kv: slot_mapping[1] is 40, the cache has 40 slots": _store(
        lambda a: a.update(slot_mapping=torch.tensor([0, 40]))
    ),
    "gather_kv: slots[0] is -1, the cache has 40 slots": lambda: ops.gather_kv(
        torch.zeros(5, 8, 3, 4), torch.zeros(5, 8, 3, 4), torch.tensor([-1])
    ),
    "gather_kv: slots[1] is 40, the cache has 40 slots": lambda: ops.gather_kv(
        torch.zeros(5, 8, 3, 4), torch.zeros(5, 8, 3, 4), torch.tensor([0, 40])
    ),
    "logits_statistics: logits must be [M, V], got 1 dimensions": lambda: ops.logits_statistics(
        torch.zeros(3)
    ),
    "logits_statistics: logits must be float32 or bfloat16, got Double": (
        lambda: ops.logits_statistics(torch.zeros(1, 3, dtype=torch.float64))
    ),
    "logits_statistics: the vocabulary must have 1 to 2^31 - 2 entries, got 0": (
        lambda: ops.logits_statistics(torch.zeros(2, 0))
    ),
    "logits_statistics: each row of logits must be contiguous, got stride 2": (
        lambda: ops.logits_statistics(torch.zeros(3, 2).t())
    ),
    "forbidden_token must be -1 (none) or an index below 3, got 3": (
        lambda: ops.logits_statistics(torch.zeros(2, 3), 3)
    ),
    "forbidden_token must be -1 (none) or an index below 3, got -2": (
        lambda: ops.logits_statistics(torch.zeros(2, 3), -2)
    ),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_a_wrong_argument_is_named(message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        WRONG_CALLS[message]()
    assert message in str(error.value)


def test_a_refused_store_writes_nothing() -> None:
    k_cache, v_cache = torch.zeros(2, 4, 1, 2), torch.zeros(2, 4, 1, 2)
    rows = torch.ones(3, 1, 2)
    with pytest.raises(RuntimeError, match="is 8"):
        ops.store_kv(rows, rows, k_cache, v_cache, torch.tensor([0, 1, 8]))
    assert k_cache.count_nonzero() == v_cache.count_nonzero() == 0


def test_a_missing_library_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="make build"):
        ops._load(tmp_path / "_ops.so")


def test_a_library_that_does_not_load_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    broken = tmp_path / "_ops.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(KernelError, match="make clean build"):
        ops._load(broken)


def test_build_info_names_the_library_in_use() -> None:
    info = ops.build_info()
    assert info.library.is_file()
    assert info.torch_version == torch.__version__


def test_the_reference_store_skips_negative_slots_too() -> None:
    k_cache, v_cache = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    rows = torch.arange(1.0, 4.0).view(3, 1, 1)
    ops_reference.store_kv(rows, -rows, k_cache, v_cache, torch.tensor([2, -1, 0]))
    assert k_cache.flatten().tolist() == [3, 0, 1, 0]
    assert v_cache.flatten().tolist() == [-3, 0, -1, 0]


@pytest.mark.parametrize("rest", [1e-5, 1e-6, 3e-7, 1e-7, 4e-8])
def test_a_confidence_just_below_one_is_rounded_like_the_truth(rest: float) -> None:
    # Policies rank by confidence: the last bits decide which of two sure tokens goes first.
    logits = torch.full((1, 2000), math.log(rest / 1999))
    logits[0, 700] = 0.0
    top1 = ops.logits_statistics(logits).top1
    assert top1.item() == ops_reference.logits_statistics(logits)[1].float().item()
