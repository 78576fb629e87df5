"""Block-causal decoding in the engine against the dense twin, which computes everything anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, SamplingParams
from tests.helpers.engines import as_prompts, assert_same, make_llm, random_prompts
from tests.helpers.reference_block_causal import published_sdar, reference_block_causal
from tests.helpers.reference_engine import LogitsOf
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint
from tests.helpers.sdar_reference import SDARReference

MASK, EOS = 3, 1
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("block_causal", {}),
    ("none", {}),
    ("prefix", {}),
    ("dual", {}),
    ("vicinity", {"look_back": 3}),
]
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"num_steps_per_block": 3}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
]


class Twin:
    """A sharp random SDAR checkpoint of some mask block length, and its dense logits."""

    def __init__(self, folder: Path, mask_block: int) -> None:
        config = sdar_config(block_size=mask_block)
        tensors = sdar_tensors(config)
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 5
        self.folder = write_sdar_checkpoint(folder, config, tensors)
        self.mask_block = mask_block
        self.logits: LogitsOf = SDARReference.from_folder(folder, config).logits


@pytest.fixture(scope="module", params=[4, 8])
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("sharp"), request.param)


@pytest.fixture(scope="module")
def llm(twin: Twin) -> LLM:
    return make_llm(twin.folder, page_size=16)


def prompts_for(twin: Twin, seed: int) -> list[list[int]]:
    """Random prompts, the last ones around the end of a mask block.

    A seed's prompts share no page with those of another, so that nothing is found in the cache.
    """
    rng = np.random.default_rng(seed)
    lengths = [*rng.integers(1, 21, 3), 15, 16, 17, 2 * twin.mask_block - 1, 40]
    return [rng.integers(4, 101, length).tolist() for length in lengths]


@pytest.mark.parametrize(("cache", "args"), EXACT)
@pytest.mark.parametrize("policy", range(len(POLICIES)))
def test_an_exact_cache_equals_computing_everything(
    llm: LLM, twin: Twin, policy: int, cache: str, args: dict[str, Any]
) -> None:
    name, policy_args = POLICIES[policy]
    params = SamplingParams(
        max_tokens=21, block_length=twin.mask_block, remasking=name, remasking_args=policy_args,
        cache=cache, cache_args=args, ignore_eos=True,
    )  # fmt: skip
    seed = policy * len(EXACT) + EXACT.index((cache, args))
    prompts = prompts_for(twin, seed)
    outputs = llm.generate(as_prompts(prompts), params)
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = reference_block_causal(twin.logits, prompt, params, MASK, [EOS], twin.mask_block)
        assert_same(output, expected)
        assert output.cache_label == "exact"
        if cache == "block_causal":
            assert output.computed_rows == expected.computed_rows


def test_a_stop_token_ends_block_causal_output_after_its_block(llm: LLM, twin: Twin) -> None:
    params = SamplingParams(
        max_tokens=24, block_length=twin.mask_block, remasking="threshold", cache="block_causal",
        stop_token_ids=tuple(range(20, 40)),
    )  # fmt: skip
    prompts = random_prompts(6, seed=77)
    for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
        assert_same(
            output,
            reference_block_causal(twin.logits, prompt, params, MASK, [EOS], twin.mask_block),
        )


def test_a_template_is_filled_block_by_mask_block(llm: LLM, twin: Twin) -> None:
    parts: list[int | list[int]] = [6, [9, 8], 9, [7, 7, 7], 4]
    template: list[int | None] = []
    for part in parts:
        template += [None] * part if isinstance(part, int) else part
    params = SamplingParams(
        block_length=twin.mask_block, remasking="threshold", remasking_args={"threshold": 0.5},
        cache="block_causal", ignore_eos=True,
    )  # fmt: skip
    for prompt in random_prompts(4, seed=78):
        [output] = llm.generate([{"prompt_token_ids": prompt, "template": parts}], params)
        assert_same(
            output,
            reference_block_causal(
                twin.logits, prompt, params, MASK, [EOS], twin.mask_block, template
            ),
        )


@pytest.mark.parametrize("num_steps", [1, 3, 4])
def test_the_engine_equals_sdars_static_loop_where_blocks_are_whole(
    llm: LLM, twin: Twin, num_steps: int
) -> None:
    params = SamplingParams(
        max_tokens=24, block_length=twin.mask_block, remasking="low_confidence",
        remasking_args={"num_steps_per_block": num_steps}, cache="block_causal", ignore_eos=True,
    )  # fmt: skip
    prompts = [prompt[:1] * 16 for prompt in random_prompts(4, seed=80 + num_steps)]
    for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
        published = published_sdar(
            twin.logits, prompt, mask=MASK, max_tokens=24, mask_block=twin.mask_block,
            num_steps=num_steps,
        )  # fmt: skip
        assert (list(output.token_ids), output.nfe) == (published.token_ids, published.nfe)


def test_the_engine_equals_sdars_dynamic_loop_with_one_token_due(llm: LLM, twin: Twin) -> None:
    for prompt in random_prompts(6, seed=90):
        # The published canvas ends with a whole mask block.
        rest = twin.mask_block * 4 - len(prompt) % twin.mask_block
        published = published_sdar(
            twin.logits, prompt, mask=MASK, max_tokens=rest, mask_block=twin.mask_block,
            num_steps=twin.mask_block, threshold=0.5,
        )  # fmt: skip
        params = SamplingParams(
            max_tokens=rest, block_length=twin.mask_block, remasking="threshold",
            remasking_args={"threshold": 0.5}, cache="block_causal", ignore_eos=True,
        )  # fmt: skip
        [output] = llm.generate(as_prompts([prompt]), params)
        assert (list(output.token_ids), output.nfe) == (published.token_ids, published.nfe)
