"""Kernels of other packages on the GPU against the reference, held to the error of torch's SDPA.

``python -m pytest -m gpu tests/gpu/test_attention_cuda.py -rs`` names what a skipped case lacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from starr_engine import SamplingParams
from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionBackend, AttentionShape
from starr_engine.attention.reference import ReferenceAttention
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.select import make_backend
from starr_engine.attention.trial import trial_problem
from tests.helpers.attention import Lengths, causal, fresh, gapped, paged
from tests.helpers.attention_steps import STEPS, Step
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.engines import as_prompts, make_llm, random_prompts

pytestmark = pytest.mark.gpu

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")

LONG: dict[str, list[Lengths]] = {
    "ragged": [paged(32, 550), paged(1, 17), fresh(129), paged(64, 64), paged(7, 300), fresh(1)],
    "few rows, many keys": [paged(1, 4000), paged(4, 3001), paged(32, 2048)],
    "block-causal prompts": [causal(paged(160, 160), 32), causal(paged(96, 200), 32)],
    "block-causal commits": [causal(paged(64, n), 32) for n in (64, 320, 1024)],
    "gaps and shadow rows": [gapped(paged(32, 400), 64), paged(32, 400, shadow=(368, 400))],
}


def shape_of(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype, page_size: int
) -> AttentionShape:
    return AttentionShape(
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        page_size=page_size,
        dtype=dtype,
        device=torch.device("cuda"),
    )


def serving(name: str, shape: AttentionShape) -> type[AttentionBackend]:
    backend = ATTENTION_BACKENDS.get(name)
    if reasons := backend.unsupported(shape):
        pytest.skip("; ".join(reasons))
    return backend


def assert_no_worse_than_twice_sdpa(step: Step, backend: AttentionBackend) -> None:
    exact = step.run_on(ReferenceAttention(step.shape)).double()
    plain = step.run_on(SdpaAttention(step.shape)).double()
    out = step.run_on(backend)
    assert out.dtype == step.shape.dtype
    bound = 2 * (plain - exact).abs().max() + 1e-5 * exact.abs().max()
    assert (out.double() - exact).abs().max() <= bound


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("page_size", [16, 32, 256, 512])
@pytest.mark.parametrize("lengths", (STEPS | LONG).values(), ids=(STEPS | LONG).keys())
def test_every_kind_of_step(
    lengths: list[Lengths], page_size: int, dtype: torch.dtype, backend: str
) -> None:
    shape = shape_of((8, 2), 128, dtype, page_size)
    step = Step(lengths, shape)
    assert_no_worse_than_twice_sdpa(step, serving(backend, shape)(shape))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("page_size", [32, 256])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("heads", [(8, 8), (8, 4), (8, 1)])
def test_heads_of_every_size_and_grouping(
    heads: tuple[int, int], head_dim: int, page_size: int, backend: str
) -> None:
    shape = shape_of(heads, head_dim, torch.bfloat16, page_size)
    step = Step(LONG["ragged"] + LONG["block-causal prompts"], shape)
    assert_no_worse_than_twice_sdpa(step, serving(backend, shape)(shape))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("page_size", [32, 256])
def test_steps_planned_together_do_not_overwrite_each_other(page_size: int, backend: str) -> None:
    shape = shape_of((8, 2), 128, torch.bfloat16, page_size)
    made = serving(backend, shape)(shape)
    steps = [Step([paged(16, n), fresh(n)], shape) for n in (90, 200, 310)]
    plans = [made.plan(step.metadata) for step in steps]
    outs = [
        plan.attend(step.query, step.key, step.value, step.k_cache, step.v_cache)
        for step, plan in zip(steps, plans, strict=True)
    ]
    for step, out in zip(steps, outs, strict=True):
        exact = step.run_on(ReferenceAttention(shape)).double()
        plain = step.run_on(SdpaAttention(shape)).double()
        bound = 2 * (plain - exact).abs().max() + 1e-5 * exact.abs().max()
        assert (out.double() - exact).abs().max() <= bound


@pytest.mark.parametrize("backend", KERNELS)
def test_the_trial_agrees(backend: str) -> None:
    for page_size in (32, 256):
        shape = shape_of((32, 8), 128, torch.bfloat16, page_size)
        assert trial_problem(serving(backend, shape), shape) is None


def test_auto_takes_a_kernel_that_passes_its_trial() -> None:
    shape = shape_of((32, 8), 128, torch.bfloat16, 32)
    assert make_backend("auto", shape).name in KERNELS


@pytest.mark.parametrize("page_size", [32, 256])
@pytest.mark.parametrize("backend", KERNELS)
def test_an_engine_decodes_with_it(backend: str, page_size: int, tmp_path: Path) -> None:
    serving(backend, shape_of((2, 1), 64, torch.bfloat16, page_size))
    config = llada_config(max_sequence_length=256, d_model=128, n_heads=2, n_kv_heads=1)
    write_checkpoint(tmp_path, config, llada_tensors(config))
    llm = make_llm(
        tmp_path,
        device="cuda",
        dtype="bfloat16",
        page_size=page_size,
        attention_backend=backend,
    )
    params = SamplingParams(max_tokens=32, block_length=8, ignore_eos=True)
    outputs = llm.generate(as_prompts(random_prompts(6)), params)
    assert all(output.error is None and len(output.token_ids) == 32 for output in outputs)
