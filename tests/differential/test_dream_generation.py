"""The engine on a Dream checkpoint against the published generation loops."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from starr_engine import LLM, SamplingParams
from starr_engine.decoding.draws import uniform
from tests.helpers.dream_checkpoints import (
    MASK_TOKEN_ID,
    dream_config,
    dream_twin,
    write_dream_checkpoint,
)
from tests.helpers.dream_procedures import diffusion_generate, fast_dllm_generate
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.llada_reference import LLaDAReference
from tests.helpers.policy_views import view

PUBLISHED = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
"""Dream's alg -> the score of ``maskgit_plus`` here."""

LENGTHS = (1, 7, 16, 33)


@dataclass(frozen=True)
class Setup:
    llm: LLM
    twin: LLaDAReference


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder: Path = tmp_path_factory.mktemp("dream")
    write_dream_checkpoint(folder, dream_config(), seed=2, sharpness=5)
    return Setup(make_llm(folder, page_size=8), dream_twin(folder))


def prompts(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 101, length).tolist() for length in LENGTHS]


def run(
    setup: Setup, batch: Sequence[Sequence[int]], **fields: object
) -> list[tuple[list[int], int]]:
    params = SamplingParams(ignore_eos=True).with_overrides(fields)
    outputs = setup.llm.generate(as_prompts(batch), params)
    assert all(output.error is None for output in outputs)
    return [(list(output.token_ids), output.nfe) for output in outputs]


@pytest.mark.parametrize(("max_tokens", "steps"), [(24, 24), (23, 9), (24, 40)])
@pytest.mark.parametrize("alg", PUBLISHED)
def test_the_engine_equals_diffusion_generate(
    setup: Setup, alg: str, max_tokens: int, steps: int
) -> None:
    """With as many steps as tokens, the published default, some steps transfer nothing."""
    batch = prompts(steps)
    args = {"num_steps_per_block": steps, "score": PUBLISHED[alg]}
    got = run(setup, batch, max_tokens=max_tokens, block_length=max_tokens, cache="none",
              remasking="maskgit_plus", remasking_args=args)  # fmt: skip
    for prompt, found in zip(batch, got, strict=True):
        assert found == diffusion_generate(
            setup.twin.logits, prompt, mask=MASK_TOKEN_ID, max_tokens=max_tokens, steps=steps,
            alg=alg,
        )  # fmt: skip
        assert found[1] < steps or steps == 9


def conditional(
    draws: Sequence[float], first: int, step: int, time: float, masks: Sequence[int]
) -> list[float]:
    """What torch's generator would have to give for masks to go when their draws say so."""
    del step
    return [1 - draws[i - first] / time for i in masks]


@pytest.mark.parametrize("steps", [24, 7])
def test_the_engine_equals_diffusion_generate_with_its_default_alg(
    setup: Setup, steps: int
) -> None:
    """A mask of time t and draw u <= t goes by time s if 1 - u / t < 1 - s / t."""
    batch = prompts(50 + steps)
    got = run(setup, batch, max_tokens=24, block_length=24, cache="none", remasking="ancestral",
              remasking_args={"num_steps_per_block": steps}, seed=11)  # fmt: skip
    for prompt, found in zip(batch, got, strict=True):
        draws = uniform(view([0.5] * 24, num_left=len(prompt), seed=11))[0].tolist()

        draw = functools.partial(conditional, draws, len(prompt))
        assert found == diffusion_generate(
            setup.twin.logits, prompt, mask=MASK_TOKEN_ID, max_tokens=24, steps=steps,
            alg="origin", draw=draw,
        )  # fmt: skip


@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_the_engine_equals_fast_dllms_loop_for_dream(
    setup: Setup, cache: str, threshold: float
) -> None:
    batch = prompts(int(10 * threshold))
    got = run(setup, batch, max_tokens=24, block_length=8, cache=cache, remasking="threshold",
              remasking_args={"threshold": threshold, "first_alone": True})  # fmt: skip
    for prompt, found in zip(batch, got, strict=True):
        assert found == fast_dllm_generate(
            setup.twin, prompt, mask=MASK_TOKEN_ID, max_tokens=24, block_length=8,
            threshold=threshold, dual_cache=cache == "dual",
        )  # fmt: skip


def test_the_draws_of_the_default_alg_are_those_of_torchs_generator_in_distribution() -> None:
    """Published: at every step a mask goes with odds 1 - s / t. Here its time is drawn once."""
    num, steps = 4000, 4
    times = torch.linspace(1, 1e-3, steps + 1)
    generator = torch.Generator().manual_seed(0)
    masked = torch.ones(num, dtype=torch.bool)
    published = []
    for step in range(steps):
        odds = 1 - times[step + 1] / times[step] if step < steps - 1 else 1
        goes = masked & (torch.rand(num, generator=generator) < odds)
        published.append(int(goes.sum()))
        masked &= ~goes
    draws = torch.cat([uniform(view([0.5] * 40, seed=seed))[0] for seed in range(100)])
    due = (draws[:, None] < times[1:]).sum(1).clamp_max(steps - 1)
    # Each count is binomial with about a quarter of 4000: standard deviation 27; 5 of the
    # difference of two of them.
    found = torch.bincount(due, minlength=steps).tolist()
    assert max(abs(a - b) for a, b in zip(found, published, strict=True)) < 5 * 39
