"""Nemotron-Labs-Diffusion against transformers' Ministral3 and its published generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Ministral3Config, Ministral3ForCausalLM

from starr_engine import LLM, SamplingParams
from starr_engine.layers.rotary_scaling import Yarn
from starr_engine.models.loading.loader import load_model
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.flat_logits import batch_logits
from tests.helpers.made import causal_context, hf_logits, make_sharp

BLOCK, MASK = 32, 100
TOLERANCE = 2e-5
ROPES: dict[str, dict[str, Any]] = {
    "published": {},
    "another yarn": {"factor": 3.0, "mscale": 0.7, "beta_fast": 4.0, "beta_slow": 0.5},
    "plain": {"rope_type": "default"},
}


@dataclass(frozen=True)
class Setup:
    folder: Path
    model: nn.Module
    tensors: dict[str, Tensor]

    def logits(self, start: int) -> Callable[[Sequence[int]], Tensor]:
        """Of a canvas whose active block begins at ``start``."""
        return hf_logits(self.model, self.tensors, causal_context(start))


@pytest.fixture(scope="module", params=list(ROPES))
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder: Path = tmp_path_factory.mktemp("nemotron") / "model"
    rope = {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16,
        "rope_theta": 1e6, "rope_type": "yarn",
    } | ROPES[request.param]  # fmt: skip
    tensors = make_sharp(folder, "nemotron-diffusion", {"rope_parameters": rope})
    renamed = {
        "lm_head.weight" if name == "diffusion_head.weight"
        else "model." + name.removeprefix("encoder."): tensor
        for name, tensor in tensors.items()
    }  # fmt: skip
    config = Ministral3Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
        rms_norm_eps=1e-5, rope_parameters=dict(rope), sliding_window=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    return Setup(folder, Ministral3ForCausalLM(config), renamed)


def test_a_ragged_batch_gives_the_logits_of_a_ministral(setup: Setup) -> None:
    model = load_model(setup.folder, torch.device("cpu"), torch.float32)
    rng = np.random.default_rng(1)
    # Positions reach several steps of the scale of queries.
    batch = [rng.integers(0, 512, length).tolist() for length in (1, 9, 40, 97)]
    for start in (0, 7, 97):
        found = batch_logits(model, batch, causal_context(start))
        for ids, logits in zip(batch, found, strict=True):
            expected = setup.logits(start)(ids)
            assert float(expected.std()) > 1
            torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)


def test_yarn_slows_slow_pairs_and_leaves_fast_ones() -> None:
    yarn = Yarn(factor=4.0, original_length=64)
    plain, slowed = Yarn(factor=1.0, original_length=64).speeds(16, 1e4), yarn.speeds(16, 1e4)
    assert slowed[0] == plain[0]
    assert slowed[-1] == pytest.approx(float(plain[-1]) / 4)
    assert yarn.amplitude == pytest.approx(0.1 * np.log(4) + 1)
    assert Yarn(factor=0.5, original_length=64).amplitude == 1.0


def published(
    setup: Setup, prompt: Sequence[int], *, max_tokens: int, block_length: int, threshold: float
) -> tuple[list[int], int]:
    """The sampler of ZHZisZZ/dllm for one request, without its limit of thinking.

    A block's first token is the arg-max of the causal row in front of it. Then each step takes what
    reaches the threshold, and always the best position.

    Returns:
        Tokens, and how many forwards they took where the one that only keeps a finished block's
        keys and values is shared with the next block's first token.
    """
    canvas, forwards = list(prompt), 0
    while len(canvas) < len(prompt) + max_tokens:
        start = len(canvas)
        canvas.append(int(allowed(setup.logits(start)(canvas)[-1]).argmax()))
        canvas += [MASK] * (min(block_length, len(prompt) + max_tokens - start) - 1)
        forwards += 1
        while MASK in canvas:
            odds, tokens = allowed(setup.logits(start)(canvas)).softmax(-1).max(-1)
            masks = [i for i in range(start, len(canvas)) if canvas[i] == MASK]
            chosen = {i for i in masks if float(odds[i]) >= threshold}
            chosen.add(max(masks, key=lambda i: float(odds[i])))
            for i in chosen:
                canvas[i] = int(tokens[i])
            forwards += 1
    return canvas[len(prompt) :], forwards


def allowed(logits: Tensor) -> Tensor:
    logits = logits.clone()
    logits[..., MASK] = -torch.inf
    return logits


@pytest.fixture(scope="module")
def llm(setup: Setup) -> LLM:
    return make_llm(setup.folder)


@pytest.mark.parametrize(("threshold", "block_length"), [(0.4, None), (0.4, 8), (0.9, 8)])
def test_the_engine_equals_the_published_generation(
    setup: Setup, llm: LLM, threshold: float, block_length: int | None
) -> None:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(101, 500, length).tolist() for length in (1, 20, 64)]
    params = SamplingParams(
        max_tokens=40, block_length=block_length, remasking="threshold", ignore_eos=True,
        remasking_args={"threshold": threshold, "first_alone": True},
    )  # fmt: skip
    for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
        assert output.error is None
        assert output.cache_label == "exact"
        assert (list(output.token_ids), output.nfe) == published(
            setup, prompt, max_tokens=40, block_length=block_length or BLOCK, threshold=threshold
        )


def test_the_cache_and_company_change_no_token(llm: LLM) -> None:
    rng = np.random.default_rng(7)
    prompts = as_prompts([rng.integers(101, 500, length).tolist() for length in (3, 32, 45)])
    params = SamplingParams(max_tokens=50, ignore_eos=True, remasking="threshold",
                            remasking_args={"threshold": 0.5})  # fmt: skip
    together = llm.generate(prompts, params)
    for prompt, output in zip(prompts, together, strict=True):
        for cache in ("none", "block_causal"):
            [alone] = llm.generate([prompt], params.with_overrides({"cache": cache}))
            assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)
