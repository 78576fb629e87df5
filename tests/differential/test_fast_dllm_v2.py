"""Fast-dLLM v2 against transformers' Qwen2 and against its published generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from starr_engine import LLM, SamplingParams
from starr_engine.models.loading.loader import load_model
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.flat_logits import batch_logits
from tests.helpers.made import block_causal, hf_logits, make_sharp

BLOCK, SMALL, MASK = 32, 8, 503
TOLERANCE = 2e-5
RAGGED = [1, 33, 2, 31, 64, 97]


@dataclass(frozen=True)
class Setup:
    folder: Path
    logits: Callable[[Sequence[int]], Tensor]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder: Path = tmp_path_factory.mktemp("fast") / "model"
    tied = request.param
    tensors = make_sharp(folder, "fast-dllm-v2", {"tie_word_embeddings": tied})
    config = Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
    )  # fmt: skip
    return Setup(folder, hf_logits(Qwen2ForCausalLM(config), tensors, block_causal(BLOCK)))


def test_a_ragged_batch_gives_the_logits_of_a_block_causal_qwen2(setup: Setup) -> None:
    model = load_model(setup.folder, torch.device("cpu"), torch.float32)
    rng = np.random.default_rng(1)
    batch = [rng.integers(0, 512, length).tolist() for length in RAGGED]
    for ids, found in zip(batch, batch_logits(model, batch, block_causal(BLOCK)), strict=True):
        expected = setup.logits(ids)
        assert float(expected.std()) > 1
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def published(
    logits_of: Callable[[Sequence[int]], Tensor],
    prompt: Sequence[int],
    *,
    max_tokens: int,
    threshold: float,
) -> tuple[list[int], int]:
    """Fast-dLLM v2's ``generate`` without its block cache, for prompts that are no single block.

    The first token of a block in front of which whole blocks stand is the arg-max of the row in
    front of it, and known before the block is denoised. Within a block sub-blocks are filled from
    left to right: in each step what exceeds the threshold, and always the best position.

    Differs in that the mask token is never chosen, and that what lies behind ``max_tokens`` is cut
    off where the published code makes whole blocks.

    Returns:
        Tokens, and how many forwards they took where the one that only keeps a finished block's
        keys and values is shared with the next block's first token.
    """
    canvas, stop = list(prompt), len(prompt) + max_tokens
    forwards = 0
    while len(canvas) < stop:
        if len(canvas) % BLOCK == 0:
            canvas.append(int(allowed(logits_of(canvas)[-1]).argmax()))
            forwards += 1
        start = (len(canvas) - 1) // BLOCK * BLOCK
        canvas += [MASK] * (start + BLOCK - len(canvas))
        for left in range(start, start + BLOCK, SMALL):
            while MASK in canvas[left : left + SMALL]:
                sources = [max(0, left + i - 1) for i in range(SMALL)]
                shifted = allowed(logits_of(canvas)[sources])
                odds, tokens = shifted.softmax(-1).max(-1)
                masks = [i for i in range(SMALL) if canvas[left + i] == MASK]
                chosen = {i for i in masks if float(odds[i]) > threshold}
                chosen.add(max(masks, key=lambda i: float(odds[i])))
                for i in chosen:
                    canvas[left + i] = int(tokens[i])
                forwards += 1
    return canvas[len(prompt) : stop], forwards


def allowed(logits: Tensor) -> Tensor:
    logits = logits.clone()
    logits[..., MASK] = -torch.inf
    return logits


@pytest.fixture(scope="module")
def llm(setup: Setup) -> LLM:
    return make_llm(setup.folder)


@pytest.mark.parametrize("threshold", [0.4, 0.9])
def test_the_engine_equals_the_published_generation(
    setup: Setup, llm: LLM, threshold: float
) -> None:
    rng = np.random.default_rng(int(10 * threshold))
    prompts = [rng.integers(4, 500, length).tolist() for length in (5, 31, 40, 64, 70)]
    # Whole blocks, as the published loop makes them.
    params = [
        SamplingParams(
            max_tokens=64 - len(prompt) % BLOCK, remasking="threshold", ignore_eos=True,
            remasking_args={"threshold": threshold, "first_alone": True},
        )
        for prompt in prompts
    ]  # fmt: skip
    outputs = llm.generate(as_prompts(prompts), params)
    assert llm.engine.spec.sub_block_length == SMALL
    for prompt, wanted, output in zip(prompts, params, outputs, strict=True):
        expected = published(
            setup.logits, prompt, max_tokens=wanted.max_tokens, threshold=threshold
        )
        assert output.error is None
        assert output.cache_label == "exact"
        assert (list(output.token_ids), output.nfe) == expected
        assert expected[1] < wanted.max_tokens or threshold > 0.5


def test_the_cache_and_company_change_no_token(setup: Setup, llm: LLM) -> None:
    rng = np.random.default_rng(7)
    prompts = as_prompts([rng.integers(4, 500, length).tolist() for length in (3, 32, 45)])
    params = SamplingParams(max_tokens=50, ignore_eos=True, remasking="threshold",
                            remasking_args={"threshold": 0.5})  # fmt: skip
    together = llm.generate(prompts, params)
    for prompt, output in zip(prompts, together, strict=True):
        for cache in ("none", "block_causal"):
            [alone] = llm.generate([prompt], params.with_overrides({"cache": cache}))
            assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)
