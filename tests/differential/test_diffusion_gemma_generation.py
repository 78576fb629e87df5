"""DiffusionGemma decodes as transformers' ``generate`` does, token for token.

transformers draws noise and tokens from torch's global generator; in these tests it takes the
engine's draws in the places of its own, and everything else is its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from starr_engine import LLM, RequestError, SamplingParams
from starr_engine.engine.drafting import draft_ids
from starr_engine.request import Request
from tests.helpers.diffusion_gemma_twin import Draws, drawing, twin_of
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.made import make_sharp

# transformers imports what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

CANVAS = 16
LENGTHS = (13, 40)
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {},
    "few steps": {"entropy_bound": 6.0, "max_steps": 5},
    "one step": {"max_steps": 1},
    "hot": {"entropy_bound": 20.0, "max_steps": 6, "t_max": 2.0, "t_min": 1.0},
    "ends when sure": {"max_steps": 12, "stability_steps": 0, "confidence_threshold": 1.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("diffusion-gemma") / "model"
    make_sharp(made, "diffusion-gemma", sharpness=6.0)
    return made


@pytest.fixture(scope="module")
def twin(folder: Path) -> DiffusionGemmaForBlockDiffusion:
    return twin_of(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    # Its noise is drawn on the host, so that no step goes ahead.
    llm = make_llm(folder, launch_ahead="on")
    assert not llm.engine.runs_ahead
    return llm


def prompts_of(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 500, length).tolist() for length in lengths]


def published(
    llm: LLM,
    twin: DiffusionGemmaForBlockDiffusion,
    prompt: list[int],
    seed: int,
    args: dict[str, Any],
    num_blocks: int = 2,
    **more: Any,
) -> tuple[list[int], int]:
    """Tokens of ``generate`` and its denoising steps."""
    settings = {"entropy_bound": 0.1, "max_steps": 48, "t_max": 0.8, "t_min": 0.4,
                "stability_steps": 1, "confidence_threshold": 0.005} | args  # fmt: skip
    draws = Draws(llm.engine.spec, seed, len(prompt), CANVAS)
    with drawing(twin, draws):
        out = twin.generate(
            torch.tensor([prompt]),
            max_new_tokens=num_blocks * CANVAS,
            max_denoising_steps=settings["max_steps"],
            sampler_config=EntropyBoundSamplerConfig(float(settings["entropy_bound"])),
            t_max=settings["t_max"],
            t_min=settings["t_min"],
            stability_threshold=settings["stability_steps"],
            confidence_threshold=settings["confidence_threshold"],
            **more,
        )
    tokens = out.sequences[0, len(prompt) :].tolist()
    steps = round(len(tokens) / float(out.tokens_per_forward[0]))
    return tokens, steps


@pytest.mark.parametrize("name", SETTINGS)
def test_the_engine_equals_transformers_generate(
    llm: LLM, twin: DiffusionGemmaForBlockDiffusion, name: str
) -> None:
    # Its 48 steps are the slowest: one request, one block.
    num_blocks = 1 if name == "published" else 2
    prompts = prompts_of(LENGTHS[2 - num_blocks :])
    params = [
        SamplingParams(max_tokens=num_blocks * CANVAS, ignore_eos=True, seed=seed,
                       remasking="entropy_bound", remasking_args=SETTINGS[name])
        for seed in (5, 2**40)[: len(prompts)]
    ]  # fmt: skip
    outputs = llm.generate(as_prompts(prompts), params)
    for prompt, wanted, output in zip(prompts, params, outputs, strict=True):
        assert output.error is None
        assert output.cache_label == "exact"
        expected = published(llm, twin, prompt, wanted.seed, SETTINGS[name], num_blocks)
        assert (list(output.token_ids), output.nfe) == expected
    limit = num_blocks * SETTINGS[name].get("max_steps", 48)
    ends_early = name.startswith("ends")
    assert all((output.nfe < limit) == ends_early for output in outputs)


def test_an_output_ends_where_transformers_pads(
    llm: LLM, twin: DiffusionGemmaForBlockDiffusion
) -> None:
    args = SETTINGS["few steps"]
    [prompt] = prompts_of((13,))
    params = SamplingParams(max_tokens=3 * CANVAS, remasking="entropy_bound", remasking_args=args,
                            ignore_eos=True)  # fmt: skip
    [whole] = llm.generate(as_prompts([prompt]), params)
    end = whole.token_ids[CANVAS + 3]  # makes the second block the last one
    end_at = whole.token_ids.index(end)
    [output] = llm.generate(
        as_prompts([prompt]),
        params.with_overrides({"ignore_eos": False, "stop_token_ids": (end,)}),
    )
    tokens, _ = published(llm, twin, prompt, 0, args, 3, eos_token_id=[end], pad_token_id=0)
    blocks = end_at // CANVAS + 1
    assert len(tokens) == blocks * CANVAS
    assert tokens[:end_at] == list(output.token_ids)
    assert tokens[end_at:] == [end] + [0] * (len(tokens) - end_at - 1)


@pytest.mark.parametrize(
    ("remasking", "args"),
    [
        ("entropy_bound", {"max_steps": 6, "entropy_bound": 8.0}),
        ("starr", {"tau_min": 0.1, "c_fast": 0.1, "c_slow": 0.1}),
        ("threshold", {"threshold": 0.2}),
        ("wino", {"tau1": 0.1, "tau2": 0.3}),
        ("token_edit", {"threshold": 0.2, "edit_threshold": 0.3, "max_post_steps": 3}),
    ],
)
def test_cache_and_company_change_no_token(
    llm: LLM, remasking: str, args: dict[str, float]
) -> None:
    prompts = as_prompts(prompts_of((3, 33), seed=4))
    params = SamplingParams(max_tokens=19, ignore_eos=True, remasking=remasking, seed=3,
                            remasking_args=args)  # fmt: skip
    together = llm.generate(prompts, params)
    for prompt, output in zip(prompts, together, strict=True):
        for cache in ("none", "dual") if remasking == "entropy_bound" else ("none",):
            [alone] = llm.generate([prompt], params.with_overrides({"cache": cache}))
            assert alone.error is None
            assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)


def test_a_seed_says_it_all_and_another_one_something_else(llm: LLM) -> None:
    prompts = as_prompts(prompts_of((20,)))
    params = SamplingParams(max_tokens=CANVAS, ignore_eos=True, remasking="threshold", seed=1)
    first, again = llm.generate(prompts, params), llm.generate(prompts, params)
    other = llm.generate(prompts, params.with_overrides({"seed": 2}))
    # At temperature 0: the noise alone is drawn.
    assert first[0].token_ids == again[0].token_ids != other[0].token_ids


def test_noise_is_spread_over_the_vocabulary_and_new_at_every_step(llm: LLM) -> None:
    spec = llm.engine.spec
    params = SamplingParams(max_tokens=4096, block_length=2048)
    request = Request("it", np.array([5], np.int32), params, spec.mask_token_id, mask_block=1,
                      opens_block=True)  # fmt: skip
    first = draft_ids(request, spec)
    request.steps_in_block = 1
    second = draft_ids(request, spec)
    assert len(first) == 2048
    assert 0 <= first.min() <= 3
    assert spec.vocab_size - 5 <= first.max() < spec.mask_token_id
    assert float((first == second).mean()) < 0.02
    assert len(np.unique(first)) > 0.9 * spec.mask_token_id


def test_an_approximate_cache_is_refused_and_says_what_to_use(llm: LLM) -> None:
    for name, args in (
        ("prefix", {"refresh": "never"}),
        ("delayed", {}),
        ("dual", {"refresh": "never"}),
    ):
        params = SamplingParams(cache=name, cache_args=args)
        with pytest.raises(RequestError, match=r"needs an exact one.*block_causal"):
            llm.engine.add_request([5, 6], params)
    assert not llm.engine.has_unfinished


def test_the_id_that_stands_for_nothing_is_no_token(llm: LLM, folder: Path) -> None:
    spec = llm.engine.spec
    size = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    assert (spec.vocab_size, spec.mask_token_id) == (size + 1, size)
    with pytest.raises(RequestError, match="holds the mask token"):
        llm.engine.add_request([5, size], SamplingParams())
    params = SamplingParams(max_tokens=2 * CANVAS, temperature=5.0, ignore_eos=True,
                            remasking="threshold", remasking_args={"threshold": 0.0})  # fmt: skip
    [output] = llm.generate(as_prompts([[5, 4, 6]]), params)
    assert max(output.token_ids) < size


def test_shared_prefixes_and_interruptions_change_no_token(llm: LLM, folder: Path) -> None:
    prompts = as_prompts(prompts_of((20, 21, 22, 40), seed=6))
    params = SamplingParams(max_tokens=3 * CANVAS, ignore_eos=True, remasking="entropy_bound",
                            remasking_args={"max_steps": 2, "entropy_bound": 9.0})  # fmt: skip
    expected = [
        llm.generate([prompt], params.with_overrides({"cache": "none"}))[0] for prompt in prompts
    ]
    tight = make_llm(folder, num_pages=10, page_size=16)
    first, again = tight.generate(prompts, params), tight.generate(prompts, params)
    assert sum(output.num_preemptions for output in first) > 0
    assert sum(output.num_cached_tokens for output in again) > 0
    for one, two, three in zip(expected, first, again, strict=True):
        assert one.error is None
        assert one.token_ids == two.token_ids == three.token_ids


def test_it_runs_in_bfloat16(folder: Path) -> None:
    half = make_llm(folder, dtype="bfloat16")
    params = SamplingParams(max_tokens=CANVAS, ignore_eos=True, remasking="entropy_bound",
                            remasking_args={"max_steps": 3}, cache_probe_rate=1.0)  # fmt: skip
    for output in half.generate(as_prompts(prompts_of((5, 40))), params):
        assert output.error is None
        assert output.drift is not None
        assert output.drift.probe_forwards == 3
        assert output.drift.mean_kl is not None
        assert output.drift.mean_kl < 0.1
