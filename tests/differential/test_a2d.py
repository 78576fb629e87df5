"""The dLLM project's small checkpoints against transformers' Qwen and Llama, and its samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from starr_engine import SamplingParams
from starr_engine.models.loading.loader import load_model
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.flat_logits import batch_logits
from tests.helpers.made import Visible, block_causal, hf_logits, make_sharp

BLOCK, MASK = 8, 503
TOLERANCE = 2e-5
CPU = torch.device("cpu")

SHAPE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}  # fmt: skip
TWINS: dict[str, Callable[[], nn.Module]] = {
    "A2DQwen3LMHeadModel": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "A2DQwen2LMHeadModel": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "A2DLlamaLMHeadModel": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
}


def everything(length: int) -> Visible:
    return np.ones((length, length), np.bool_)


@dataclass(frozen=True)
class Setup:
    folder: Path
    twin: nn.Module
    tensors: dict[str, Tensor]


@pytest.fixture(scope="module", params=list(TWINS))
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder: Path = tmp_path_factory.mktemp("a2d") / "model"
    # Files of transformers 5 write the rotary base elsewhere.
    moved = {"rope_theta": None, "rope_parameters": SHAPE["rope_parameters"]}
    changes = {"architectures": [request.param]} | (moved if "Llama" in request.param else {})
    tensors = make_sharp(folder, "a2d", changes)
    return Setup(folder, TWINS[request.param](), tensors)


@pytest.mark.parametrize("mask_block", [None, BLOCK])
def test_a_ragged_batch_gives_the_logits_of_the_model_it_was_made_from(
    setup: Setup, mask_block: int | None
) -> None:
    visible = everything if mask_block is None else block_causal(mask_block)
    expected = hf_logits(setup.twin, setup.tensors, visible)
    model = load_model(setup.folder, CPU, torch.float32, mask_block_length=mask_block)
    kind = "bidirectional" if mask_block is None else "block_causal"
    assert model.spec.attention_kind == kind
    rng = np.random.default_rng(1)
    batch = [rng.integers(0, 512, length).tolist() for length in (1, 33, 2, 17, 64)]
    for ids, found in zip(batch, batch_logits(model, batch, visible), strict=True):
        torch.testing.assert_close(found, expected(ids), rtol=0, atol=TOLERANCE)


def sampler(
    logits_of: Callable[[Sequence[int]], Tensor],
    prompt: Sequence[int],
    *,
    max_tokens: int,
    steps: int,
    whole_canvas: bool,
) -> tuple[list[int], int]:
    """MDLM's sampler (the whole canvas is there from the beginning) or BD3LM's (block by block).

    Block by block from the prompt's end, the most confident masks go, equally many in each step;
    with the published linear schedule that is so where the steps divide the block. BD3LM's pads
    the prompt on the left, so that its blocks end where those of the mask do only if the prompt is
    whole blocks. The mask token is never chosen.
    """
    stop = len(prompt) + max_tokens
    canvas = [*prompt, *([MASK] * max_tokens if whole_canvas else [])]
    forwards = 0
    for start in range(len(prompt), stop, BLOCK):
        canvas += [] if whole_canvas else [MASK] * BLOCK
        for _ in range(steps):
            logits = logits_of(canvas).clone()
            logits[:, MASK] = -torch.inf
            odds, tokens = logits.softmax(-1).max(-1)
            masks = [i for i in range(start, start + BLOCK) if canvas[i] == MASK]
            for i in sorted(masks, key=lambda i: -float(odds[i]))[: BLOCK // steps]:
                canvas[i] = int(tokens[i])
            forwards += 1
    return canvas[len(prompt) :], forwards


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm"])
def test_the_engine_equals_the_projects_samplers(setup: Setup, kind: str) -> None:
    is_mdlm = kind == "mdlm"
    logits_of = hf_logits(setup.twin, setup.tensors, everything if is_mdlm else block_causal(BLOCK))
    llm = make_llm(setup.folder, mask_block_length=None if is_mdlm else BLOCK)
    rng = np.random.default_rng(2)
    lengths = (3, 8, 21) if is_mdlm else (8, 24)
    prompts = [rng.integers(4, 500, length).tolist() for length in lengths]
    params = SamplingParams(
        max_tokens=24, block_length=BLOCK, remasking="low_confidence", ignore_eos=True,
        remasking_args={"num_steps_per_block": 4}, cache="none" if is_mdlm else "auto",
    )  # fmt: skip
    for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
        assert output.cache_label == "exact"
        assert (list(output.token_ids), output.nfe) == sampler(
            logits_of, prompt, max_tokens=24, steps=4, whole_canvas=is_mdlm
        )
