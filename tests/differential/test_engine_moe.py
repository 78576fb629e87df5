"""SDAR-MoE and LLaDA-MoE in the engine: their published loops, and no say of other requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starr_engine import LLM, SamplingParams
from tests.helpers.engines import as_prompts, assert_same, make_llm, random_prompts
from tests.helpers.moe_checkpoints import (
    EOS_TOKEN_ID,
    MASK_TOKEN_ID,
    MoEReference,
    llada_moe_config,
    sdar_moe_config,
    write_moe_checkpoint,
)
from tests.helpers.published_llada import published_llada
from tests.helpers.reference_block_causal import published_sdar, reference_block_causal
from tests.helpers.reference_engine import reference_generate

BLOCK = 4


class Twin:
    """A sharp random checkpoint, an engine that runs it, and its dense logits."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        write_moe_checkpoint(folder, config, seed=2, sharpness=5.0)
        self.llm: LLM = make_llm(folder, page_size=16)
        self.logits = MoEReference.from_folder(folder, config).logits


@pytest.fixture(scope="module")
def sdar(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    config = sdar_moe_config(block_size=BLOCK, max_position_embeddings=256)
    return Twin(tmp_path_factory.mktemp("sdar"), config)


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("llada"), llada_moe_config())


@pytest.mark.parametrize("num_steps", [1, 3, 4])
def test_sdars_static_loop(sdar: Twin, num_steps: int) -> None:
    params = SamplingParams(
        max_tokens=20, block_length=BLOCK, remasking="low_confidence",
        remasking_args={"num_steps_per_block": num_steps}, cache="block_causal", ignore_eos=True,
    )  # fmt: skip
    prompts = [prompt[:1] * 12 for prompt in random_prompts(4, seed=num_steps)]
    for prompt, output in zip(prompts, sdar.llm.generate(as_prompts(prompts), params), strict=True):
        published = published_sdar(
            sdar.logits, prompt, mask=MASK_TOKEN_ID, max_tokens=20, mask_block=BLOCK,
            num_steps=num_steps,
        )  # fmt: skip
        assert (list(output.token_ids), output.nfe) == (published.token_ids, published.nfe)


def test_sdars_dynamic_loop(sdar: Twin) -> None:
    prompts = random_prompts(6, seed=7)
    # The published canvas ends with a whole mask block.
    lengths = [5 * BLOCK - len(prompt) % BLOCK for prompt in prompts]
    params = [
        SamplingParams(
            max_tokens=length, block_length=BLOCK, remasking="threshold",
            remasking_args={"threshold": 0.5}, cache="block_causal", ignore_eos=True,
        )
        for length in lengths
    ]  # fmt: skip
    outputs = sdar.llm.generate(as_prompts(prompts), params)
    for prompt, length, output in zip(prompts, lengths, outputs, strict=True):
        published = published_sdar(
            sdar.logits, prompt, mask=MASK_TOKEN_ID, max_tokens=length, mask_block=BLOCK,
            num_steps=BLOCK, threshold=0.5,
        )  # fmt: skip
        assert (list(output.token_ids), output.nfe) == (published.token_ids, published.nfe)
    assert sum(output.nfe for output in outputs) < sum(lengths)


@pytest.mark.parametrize(("steps", "block_length"), [(24, 8), (9, 8), (8, 24), (12, 12)])
def test_lladas_loop(llada: Twin, steps: int, block_length: int) -> None:
    num_blocks = 24 // block_length
    params = SamplingParams(
        max_tokens=24, block_length=block_length, remasking="low_confidence",
        remasking_args={"num_steps_per_block": steps // num_blocks}, cache="none", ignore_eos=True,
    )  # fmt: skip
    prompts = random_prompts(3, seed=steps)
    outputs = llada.llm.generate(as_prompts(prompts), params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.nfe == steps
        assert list(output.token_ids) == published_llada(
            llada.logits, prompt, mask=MASK_TOKEN_ID, gen_length=24, block_length=block_length,
            steps=steps,
        )  # fmt: skip


def test_policies_and_stops_equal_the_references(sdar: Twin, llada: Twin) -> None:
    stops = tuple(range(20, 30))
    for remasking in ("threshold", "starr"):
        params = SamplingParams(max_tokens=16, remasking=remasking, stop_token_ids=stops)
        prompts = as_prompts(ids := random_prompts(4, seed=3))
        exact = replace(params, block_length=BLOCK, cache="block_causal")
        for prompt, output in zip(ids, sdar.llm.generate(prompts, exact), strict=True):
            expected = reference_block_causal(
                sdar.logits, prompt, exact, MASK_TOKEN_ID, [EOS_TOKEN_ID], BLOCK
            )
            assert_same(output, expected)
        dense = replace(params, block_length=8, cache="none")
        for prompt, output in zip(ids, llada.llm.generate(prompts, dense), strict=True):
            expected_dense = reference_generate(
                llada.logits, prompt, dense, MASK_TOKEN_ID, [EOS_TOKEN_ID]
            )
            assert_same(output, expected_dense)


@pytest.mark.parametrize(
    ("family", "cache"),
    [
        ("sdar", "block_causal"),
        ("llada", "none"),
        ("llada", "dllm"),
    ],
)
def test_tokens_do_not_depend_on_the_rest_of_the_batch(
    request: pytest.FixtureRequest, family: str, cache: str
) -> None:
    """Experts group the rows of all requests, and groups change with every request."""
    twin: Twin = request.getfixturevalue(family)
    params = SamplingParams(
        max_tokens=16, block_length=BLOCK, remasking="threshold",
        remasking_args={"threshold": 0.6}, cache=cache, ignore_eos=True,
    )  # fmt: skip
    prompts = as_prompts(random_prompts(7, seed=11))
    together = twin.llm.generate(prompts, params)
    for prompt, output in zip(prompts, together, strict=True):
        [alone] = twin.llm.generate([prompt], params)
        assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)
