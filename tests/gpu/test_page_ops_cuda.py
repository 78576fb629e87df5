"""The cases of tests/unit/test_page_ops.py on CUDA, and with its kernels on a simulated GPU."""

import pytest
import torch

from starr_engine import ops
from tests.helpers import page_op_cases
from tests.helpers.op_cases import CACHE_DTYPES, NUM_TOKENS, ROW_SHAPES, SHIFTS

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("num_rows", NUM_TOKENS)
def test_store_rows_writes_what_the_reference_writes(
    device: torch.device, num_rows: int, dtype: torch.dtype
) -> None:
    page_op_cases.check_store_rows_count(device, dtype, num_rows)


@pytest.mark.parametrize("width", page_op_cases.WIDTHS)
def test_store_rows_copies_rows_of_any_width(device: torch.device, width: int) -> None:
    page_op_cases.check_store_rows_width(device, width)


def test_store_rows_takes_rows_that_lie_apart(device: torch.device) -> None:
    page_op_cases.check_store_rows_apart(device)


@pytest.mark.parametrize("shift", SHIFTS)
def test_rows_and_pages_may_lie_at_any_address(device: torch.device, shift: int) -> None:
    page_op_cases.check_alignments(device, shift)


def test_store_rows_stores_keys_or_values_alone(device: torch.device) -> None:
    page_op_cases.check_store_rows_stores_values_alone(device)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("count", NUM_TOKENS)
def test_gather_rows_reads_what_the_reference_reads(
    device: torch.device, count: int, dtype: torch.dtype
) -> None:
    for width in page_op_cases.WIDTHS:
        page_op_cases.check_gather_rows(device, dtype, count, width)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(("source", "target"), page_op_cases.PAGE_COPIES)
def test_copy_pages_copies_what_the_reference_copies(
    device: torch.device, source: list[int], target: list[int], dtype: torch.dtype
) -> None:
    page_op_cases.check_copy_pages(device, dtype, source, target)


@pytest.mark.parametrize("row", ROW_SHAPES)
def test_copy_pages_copies_pages_of_any_width(device: torch.device, row: tuple[int, int]) -> None:
    page_op_cases.check_copy_pages(device, torch.bfloat16, [1, 4], [0, 2], row=row, page_size=1)


def test_copy_pages_copies_many_and_large_pages(device: torch.device) -> None:
    page_op_cases.check_copy_pages(
        device, torch.float16, range(400), range(400, 800), num_pages=800, row=(1, 4)
    )
    page_op_cases.check_copy_pages(
        device, torch.float32, [2], [0], num_pages=3, row=(8, 128), page_size=37
    )


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("row", page_op_cases.SIMILARITY_ROWS)
def test_row_similarity_is_as_exact_as_torch(
    device: torch.device, row: tuple[int, int], dtype: torch.dtype
) -> None:
    for num_rows in NUM_TOKENS:
        page_op_cases.check_row_similarity(device, dtype, row, num_rows)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_row_similarity_takes_rows_that_lie_apart(device: torch.device, dtype: torch.dtype) -> None:
    page_op_cases.check_row_similarity_apart(device, dtype)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_a_row_that_did_not_change_has_a_similarity_of_exactly_one(
    device: torch.device, dtype: torch.dtype
) -> None:
    page_op_cases.check_rows_that_did_not_change(device, dtype)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_row_similarity_of_special_rows(device: torch.device, dtype: torch.dtype) -> None:
    page_op_cases.check_special_rows(device, dtype)


def test_row_similarity_reads_every_float16(device: torch.device) -> None:
    # Simulated, the conversion is our own; a few patterns of each exponent will do.
    page_op_cases.check_every_float16(device, step=1 if device.type == "cuda" else 97)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("lengths", page_op_cases.SEGMENTS)
def test_select_lowest_selects_what_the_reference_selects(
    device: torch.device, lengths: tuple[int, ...], share: float
) -> None:
    page_op_cases.check_select_lowest_of_segments(device, lengths, share)


def test_select_lowest_takes_more_segments_than_one_launch(device: torch.device) -> None:
    page_op_cases.check_select_lowest_of_segments(device, [*range(20)] * 10, 0.4)


@pytest.mark.parametrize("case", page_op_cases.OPCHECK_CASES)
def test_ops_are_registered_as_torch_expects(device: torch.device, case: str) -> None:
    page_op_cases.check_registration(
        device, case, "ALL" if device.type == "cuda" else "test_schema"
    )


@pytest.mark.gpu
def test_selections_and_copies_run_in_a_cuda_graph() -> None:
    values = torch.randn(300, device=CUDA)
    pages = torch.randn(2, 2, 4, 8, 2, 16, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        selected = ops.select_lowest(values, [0, 40, 300], [10, 70])
        ops.copy_pages(pages, [1], [2])
    values.copy_(torch.randn(300, device=CUDA))
    pages.copy_(torch.randn_like(pages))
    graph.replay()
    assert torch.equal(selected, ops.select_lowest(values, [0, 40, 300], [10, 70]))
    assert torch.equal(pages[:, :, 2], pages[:, :, 1])
