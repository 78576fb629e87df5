"""Backends for kernels of other packages: what they hand over, interpreted in plain PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.attention.base import ATTENTION_BACKENDS
from starr_engine.attention.reference import ReferenceAttention
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.trial import trial_problem
from tests.helpers.attention import Lengths, causal, fresh, gapped, paged
from tests.helpers.attention_steps import STEPS, Step, shape
from tests.helpers.fake_kernels import fake_package

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")

GAPPED: dict[str, list[Lengths]] = {
    "gaps": [gapped(paged(4, 20), 5), paged(4, 20), gapped(paged(3, 9), 8)],
    "gaps, block-causal": [gapped(causal(paged(16, 24), 8), 3), causal(paged(40, 40), 8)],
    "gaps, shadow rows": [gapped(paged(8, 24, shadow=(16, 24)), 9), fresh(5)],
}


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("page_size", [8, 256])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("lengths", (STEPS | GAPPED).values(), ids=(STEPS | GAPPED).keys())
def test_every_row_attends_to_what_the_reference_says(
    lengths: list[Lengths],
    num_kv_heads: int,
    page_size: int,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_package(backend, monkeypatch)
    step = Step(lengths, shape(4, num_kv_heads, 64, torch.float32, "cpu", page_size))
    out = step.run_on(ATTENTION_BACKENDS.get(backend)(step.shape))
    expected = step.run_on(ReferenceAttention(step.shape))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("page_size", [8, 256])
def test_what_a_step_costs_in_calls(
    page_size: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_package(backend, monkeypatch)
    through_pages = "paged" if page_size == 256 or backend == "flashinfer" else "packed"
    block_step = [paged(8, n) for n in (20, 40, 300)]
    commit = [causal(paged(16, 40), 8), causal(paged(16, 24), 8), causal(paged(8, 32), 8)]
    prompt = [causal(paged(40, 40), 8)]
    fresh_step = [fresh(7), fresh(7), fresh(9)]
    for lengths, wanted in (
        (block_step, [through_pages]),
        (commit, [through_pages]),
        # Without pages every key would be copied (5 + 1) / 2 times: a mask is better.
        (prompt, ["paged"] if through_pages == "paged" else []),
        (fresh_step, ["packed"]),
        ([*block_step, *fresh_step], [through_pages, "packed"]),
        ([gapped(paged(8, 20), 5), *block_step], {"paged", "packed"} & {through_pages, "packed"}),
        ([fresh(20, shadow=(8, 16)), causal(fresh(20), 8)], []),
    ):
        calls.clear()
        step = Step(lengths, shape(4, 2, 64, torch.float32, "cpu", page_size))
        step.run_on(ATTENTION_BACKENDS.get(backend)(step.shape))
        assert Counter(calls) == Counter(wanted)


@pytest.mark.parametrize("backend", ["flash_attn", "torch_varlen"])
@pytest.mark.parametrize("page_size", [8, 256])
def test_a_step_of_one_kind_needs_no_more_than_what_was_uploaded(
    page_size: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(backend, monkeypatch)
    uploads: list[int] = []

    def upload(array: NDArray[Any], device: torch.device) -> Tensor:
        uploads.append(array.size)
        return torch.from_numpy(array).to(device)

    for module in ("sequences", "varlen"):
        monkeypatch.setattr(f"starr_engine.attention.{module}.upload", upload)
    for lengths, is_more in (
        ([paged(8, n) for n in (20, 40, 300)], False),
        ([fresh(7), fresh(7), fresh(9)], False),
        ([paged(8, 20), fresh(7)], True),
        ([causal(paged(16, 24), 8)], True),
    ):
        uploads.clear()
        step = Step(lengths, shape(4, 2, 64, torch.float32, "cpu", page_size))
        step.run_on(ATTENTION_BACKENDS.get(backend)(step.shape))
        assert bool(uploads) == is_more


def test_torch_reads_pages_of_any_size_once_flash_attention_3_is_active(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = fake_package("torch_varlen", monkeypatch)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA3")
    step = Step([paged(4, 20), causal(paged(16, 40), 8)], shape(4, 2, 64, torch.float32, "cpu"))
    out = step.run_on(ATTENTION_BACKENDS.get("torch_varlen")(step.shape))
    torch.testing.assert_close(out.double(), step.expected(), rtol=1e-5, atol=2e-6)
    assert calls == ["paged"]


def test_steps_planned_together_do_not_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrapper of FlashInfer holds one plan; steps of partly computed rows need two at once."""
    fake_package("flashinfer", monkeypatch)
    attention = shape(4, 2, 64, torch.float32, "cpu")
    backend = ATTENTION_BACKENDS.get("flashinfer")(attention)
    steps = [Step([paged(4, n), fresh(n)], attention) for n in (9, 20, 31)]
    plans = [backend.plan(step.metadata) for step in steps]
    for step, plan in zip(steps, plans, strict=True):
        out = plan.attend(step.query, step.key, step.value, step.k_cache, step.v_cache)
        torch.testing.assert_close(out.double(), step.expected(), rtol=1e-5, atol=2e-6)
    made = {id(each) for each, _ in backend._paged.free}  # type: ignore[attr-defined]
    assert made == set()
    del plans, plan
    again = [backend.plan(step.metadata) for step in steps]
    assert len(backend._paged.free) == 0  # type: ignore[attr-defined]
    del again
    assert len(backend._paged.free) == 3  # type: ignore[attr-defined]


def test_flashinfer_splits_no_keys_where_torch_is_asked_to_be_deterministic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_package("flashinfer", monkeypatch)
    torch.use_deterministic_algorithms(True)  # put back by conftest
    step = Step([paged(4, 20), fresh(3)], shape(4, 2, 64, torch.float32, "cpu"))
    step.run_on(ATTENTION_BACKENDS.get("flashinfer")(step.shape))  # the fake compares


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("page_size", [8, 32, 256])
def test_a_right_kernel_passes_its_trial(
    page_size: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(backend, monkeypatch)
    attention = shape(4, 2, 64, torch.bfloat16, "cpu", page_size)
    assert trial_problem(ATTENTION_BACKENDS.get(backend), attention) is None


def test_a_wrong_kernel_fails_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = shape(4, 2, 64, torch.bfloat16, "cpu", 256)
    backend = ATTENTION_BACKENDS.get("torch_varlen")
    fake_package("torch_varlen", monkeypatch)
    right = torch.nn.attention.varlen.varlen_attn

    def one_row_off(*args: object, **options: object) -> torch.Tensor:
        out: torch.Tensor = right(*args, **options)  # type: ignore[arg-type, assignment]
        out[-1] = out[-2]
        return out

    def unwritten(*args: object, **options: object) -> torch.Tensor:
        out: torch.Tensor = right(*args, **options)  # type: ignore[arg-type, assignment]
        out[3] = float("nan")
        return out

    def broken(*args: object, **options: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    for kernel, expected in (
        (one_row_off, "its trial is off by"),
        (unwritten, "its trial is off by inf"),
        (broken, "its trial failed: RuntimeError: no kernel image"),
    ):
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
        problem = trial_problem(backend, attention)
        assert problem is not None
        assert problem.startswith(expected)


def test_sdpa_passes_the_trial_that_it_sets() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert trial_problem(SdpaAttention, shape(4, 2, 64, dtype, "cpu")) is None
