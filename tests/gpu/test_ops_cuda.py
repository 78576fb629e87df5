"""The cases of tests/unit/test_ops.py on CUDA, and with its kernels on a simulated GPU."""

import pytest
import torch

from starr_engine import ops
from tests.helpers import gumbel_cases, op_cases

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", op_cases.CACHE_DTYPES)
@pytest.mark.parametrize("num_tokens", op_cases.NUM_TOKENS)
def test_store_kv_writes_what_the_reference_writes(
    device: torch.device, num_tokens: int, dtype: torch.dtype
) -> None:
    op_cases.check_store_kv(device, dtype, num_tokens)


@pytest.mark.parametrize("shape", op_cases.ROW_SHAPES)
def test_store_kv_copies_rows_of_any_width(device: torch.device, shape: tuple[int, int]) -> None:
    op_cases.check_store_kv_row_shape(device, shape)


def test_store_kv_takes_views_of_a_fused_projection(device: torch.device) -> None:
    op_cases.check_store_kv_fused_projection(device)


@pytest.mark.parametrize("shift", op_cases.SHIFTS)
def test_keys_and_values_may_lie_at_any_address(device: torch.device, shift: int) -> None:
    op_cases.check_kv_alignments(device, shift)


@pytest.mark.parametrize("dtype", op_cases.CACHE_DTYPES)
@pytest.mark.parametrize("num_slots", op_cases.NUM_TOKENS)
def test_gather_kv_reads_what_the_reference_reads(
    device: torch.device, num_slots: int, dtype: torch.dtype
) -> None:
    op_cases.check_gather_kv(device, dtype, num_slots)


@pytest.mark.parametrize("forbidden", op_cases.FORBIDDEN)
@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
@pytest.mark.parametrize("shape", op_cases.LOGIT_SHAPES)
def test_logits_statistics_is_as_exact_as_torch(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, forbidden: str
) -> None:
    op_cases.check_logits_statistics(device, shape, dtype, forbidden)


@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
@pytest.mark.parametrize("name", op_cases.SPECIAL_LOGITS)
def test_logits_statistics_of_special_rows(
    device: torch.device, name: str, dtype: torch.dtype
) -> None:
    op_cases.check_special_logits(device, name, dtype)


@pytest.mark.parametrize("dtype", op_cases.LOGIT_DTYPES)
def test_logits_statistics_of_rows_that_lie_apart(device: torch.device, dtype: torch.dtype) -> None:
    op_cases.check_strided_logits(device, dtype)


def test_logits_statistics_of_a_row_do_not_depend_on_the_other_rows(device: torch.device) -> None:
    op_cases.check_rows_are_independent(device)


@pytest.mark.parametrize("forbidden", gumbel_cases.FORBIDDEN)
@pytest.mark.parametrize("dtype", gumbel_cases.DTYPES)
@pytest.mark.parametrize("shape", gumbel_cases.SHAPES)
def test_gumbel_argmax_draws_what_the_reference_draws(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, forbidden: int
) -> None:
    gumbel_cases.check_shape(device, shape, dtype, forbidden)


@pytest.mark.parametrize("name", gumbel_cases.TRUNCATIONS)
@pytest.mark.parametrize("dtype", gumbel_cases.DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 15), (3, 1025)])
def test_gumbel_argmax_cuts_off_what_the_reference_cuts_off(
    device: torch.device, shape: tuple[int, int], dtype: torch.dtype, name: str
) -> None:
    gumbel_cases.check_truncation(device, shape, dtype, name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", gumbel_cases.TRUNCATIONS)
def test_gumbel_argmax_cuts_off_of_a_real_vocabulary(name: str) -> None:
    gumbel_cases.check_truncation(CUDA, (4, 126_464), torch.bfloat16, name)


def test_gumbel_argmax_of_flat_odd_and_strided_rows(device: torch.device) -> None:
    is_simulated = device.type == "cpu"
    gumbel_cases.check_flat_rows(device, 500 if is_simulated else 20_000)
    gumbel_cases.check_odd_rows(device)
    gumbel_cases.check_rows_apart(device)
    gumbel_cases.check_no_draws(device)
    gumbel_cases.check_registration(device, "test_schema" if is_simulated else "ALL")


@pytest.mark.parametrize("case", op_cases.OPCHECK_CASES)
def test_ops_are_registered_as_torch_expects(device: torch.device, case: str) -> None:
    op_cases.check_registration(device, case, "ALL" if device.type == "cuda" else "test_schema")


@pytest.mark.gpu
def test_ops_run_in_a_cuda_graph() -> None:
    logits = torch.randn(4, 1000, device=CUDA)
    ops.logits_statistics(logits, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.logits_statistics(logits, 3)
    logits.copy_(torch.randn(4, 1000, device=CUDA))
    graph.replay()
    assert all(map(torch.equal, captured, ops.logits_statistics(logits, 3)))


@pytest.mark.gpu
def test_slots_beyond_two_gibibytes_are_reached() -> None:
    # 2^31 bytes are 2^20 slots of 2 KiB; the last page lies beyond them.
    k_cache = torch.zeros(2**20 // 32 + 1, 32, 8, 128, dtype=torch.bfloat16, device=CUDA)
    v_cache = torch.zeros_like(k_cache)
    rows = torch.randn(1, 8, 128, dtype=torch.bfloat16, device=CUDA)
    slots = torch.tensor([2**20 + 31], device=CUDA)
    ops.store_kv(rows, -rows, k_cache, v_cache, slots)
    key, value = ops.gather_kv(k_cache, v_cache, slots)
    assert torch.equal(key, rows)
    assert torch.equal(value, -rows)
