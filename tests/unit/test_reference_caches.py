"""What must hold among the reference cache procedures, whatever the engine does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from starr_engine import SamplingParams
from tests.helpers.engines import Reference, random_prompts, sharp_checkpoint
from tests.helpers.reference_block_causal import (
    ExactCacheForward,
    block_causal_matrix,
    published_sdar,
    reference_block_causal,
)
from tests.helpers.reference_caches import CachedOutput, CachedRows
from tests.helpers.reference_engine import LogitsOf, reference_generate

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {"tokens_per_step": 2}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
]
REVOKING: tuple[str, dict[str, Any]] = (
    "starr",
    {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2},
)
PROMPTS = [*random_prompts(2, seed=5), [9]]
FAR = 1000
MASK, EOS = 3, 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(sharp_checkpoint(tmp_path_factory.mktemp("sharp")))


def all_outputs(
    reference: Reference, cache: str, args: Mapping[str, Any], **changes: Any
) -> list[CachedOutput]:
    """Outputs of every prompt under every policy."""
    shape: dict[str, Any] = {"max_tokens": 20, "block_length": 8, "ignore_eos": True}
    return [
        reference.generate_cached(
            prompt,
            SamplingParams(
                remasking=name,
                remasking_args=policy_args,
                cache=cache,
                cache_args=args,
                **(shape | changes),
            ),
        )
        for name, policy_args in POLICIES
        for prompt in PROMPTS
    ]


def without_cost(outputs: list[CachedOutput]) -> list[tuple[Any, ...]]:
    """Outputs without the rows they took."""
    return [(o.token_ids, o.finish_reason, o.nfe, o.num_unmasked) for o in outputs]


def test_without_a_cache_the_procedure_is_the_reference_engine(reference: Reference) -> None:
    for name, args in POLICIES:
        for prompt in PROMPTS:
            params = SamplingParams(
                max_tokens=20, block_length=8, remasking=name, remasking_args=args, cache="none"
            )
            expected, got = (
                reference.generate(prompt, params),
                reference.generate_cached(prompt, params),
            )
            assert without_cost([got]) == [
                (expected.token_ids, expected.finish_reason, expected.nfe, expected.num_unmasked)
            ]
            assert got.computed_rows == expected.nfe * (len(prompt) + 20)


@pytest.mark.parametrize(
    ("cache", "args"),
    [
        ("prefix", {"refresh_every": 1}),
        ("dual", {"refresh_every": 1}),
        ("vicinity", {"refresh_every": 1, "look_back": 0, "look_ahead": 0}),
        ("vicinity", {"look_back": FAR, "look_ahead": FAR}),
        ("vicinity", {"look_back": FAR, "look_ahead": FAR, "refresh": "never"}),
        ("vicinity", {"look_back": 0, "look_ahead": 0, "warmup": FAR}),
        ("delayed", {"refresh_every": 1}),
        ("delayed", {"warmup": FAR}),
    ],
)
def test_computing_everything_at_every_step_is_no_cache(
    reference: Reference, cache: str, args: dict[str, Any]
) -> None:
    assert all_outputs(reference, cache, args) == all_outputs(reference, "none", {})


@pytest.mark.parametrize(
    "args",
    [
        {"prompt_interval": 1, "response_interval": 1},
        {"prompt_interval": 1, "response_interval": FAR, "ratio": 1.0},
    ],
)
def test_features_that_are_always_renewed_are_no_cache(
    reference: Reference, args: dict[str, Any]
) -> None:
    got, expected = all_outputs(reference, "dllm", args), all_outputs(reference, "none", {})
    assert [o.computed_rows for o in got] == [o.computed_rows for o in expected]
    assert without_cost(got) == without_cost(expected)


def test_the_prefix_cache_without_a_prefix_is_no_cache(reference: Reference) -> None:
    for name, args in POLICIES:
        outputs = [
            reference.generate_cached(
                [],
                SamplingParams(
                    max_tokens=8, block_length=8, remasking=name, remasking_args=args, cache=cache
                ),
            )
            for cache in ("prefix", "none")
        ]
        assert outputs[0] == outputs[1]


@pytest.mark.parametrize("args", [{}, {"refresh_every": 3}, {"refresh": "never"}])
def test_a_vicinity_of_nothing_is_the_dual_cache(
    reference: Reference, args: dict[str, Any]
) -> None:
    narrow = args | {"look_back": 0, "look_ahead": 0}
    assert all_outputs(reference, "vicinity", narrow) == all_outputs(reference, "dual", args)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "vicinity", "delayed"])
def test_a_suffix_window_over_all_masks_drops_nothing(reference: Reference, cache: str) -> None:
    for tail in (True, False):
        window = {"suffix_window": 20, "suffix_tail": tail}
        assert all_outputs(reference, cache, window) == all_outputs(reference, cache, {})


def test_rows_computed_are_those_counted_by_hand(reference: Reference) -> None:
    def rows(cache: str, **args: Any) -> int:
        params = SamplingParams(
            max_tokens=20,
            block_length=8,
            remasking="low_confidence",
            cache=cache,
            cache_args=args,
            ignore_eos=True,
        )
        return reference.generate_cached([5] * 10, params).computed_rows

    # Ten tokens of prompt, blocks [10, 18), [18, 26) and [26, 30), one token per step.
    assert rows("none") == 20 * 30
    assert rows("prefix") == 3 * 30 + 7 * 20 + 7 * 12 + 3 * 4
    assert rows("dual") == 3 * 30 + 7 * 8 + 7 * 8 + 3 * 4
    # Steps 0, 3 and 6 of the long blocks and 0 and 3 of the short one.
    assert rows("dual", refresh_every=3) == 8 * 30 + 5 * 8 + 5 * 8 + 2 * 4
    # The first step; then the block, and the row that the block before unmasked last.
    assert rows("dual", refresh="never") == 30 + 7 * 8 + (8 + 1) + 7 * 8 + (4 + 1) + 3 * 4
    assert rows("vicinity", look_back=2, look_ahead=3) == 3 * 30 + 7 * 13 + 7 * 13 + 3 * 6
    assert rows("vicinity", look_back=2, look_ahead=3, warmup=4) == 6 * 30 + 4 * 13 + 7 * 13 + 18
    # Two full steps a block; then the masks that are left and the token of the step before.
    left = [*range(18, 12, -1), *range(10, 4, -1), *range(2, 0, -1)]
    assert rows("delayed") == 6 * 30 + sum(masks + 1 for masks in left)
    # Windows: 2 masks behind the block, and the last row.
    live = [10 + 8 + 2 + 1, 18 + 8 + 2 + 1, 26 + 4]
    assert rows("none", suffix_window=2) == 8 * live[0] + 8 * live[1] + 4 * live[2]
    assert rows("dual", suffix_window=2) == sum(live) + 7 * 8 + 7 * 8 + 3 * 4
    assert rows("prefix", suffix_window=2) == sum(live) + 7 * 11 + 7 * 11 + 3 * 4
    # Without refresh the rows that the window reaches are computed once.
    assert rows("dual", suffix_window=2, refresh="never", suffix_tail=False) == (
        20 + 7 * 8 + (8 + 1 + 2) + 7 * 8 + (4 + 1) + 3 * 4
    )
    # Between refreshes 20 rows in the first of two layers and 5 in the second: 13, rounded up.
    assert rows("dllm", prompt_interval=9) == 3 * 20 + 17 * 13 + 3 * 10


def test_the_procedures_differ_on_this_checkpoint(reference: Reference) -> None:
    # Otherwise comparing an engine with them would prove little.
    variants: list[tuple[str, dict[str, Any]]] = [
        ("none", {}),
        ("none", {"suffix_window": 4}),
        ("none", {"suffix_window": 4, "suffix_tail": False}),
        ("prefix", {}),
        ("prefix", {"refresh": "never"}),
        ("dual", {}),
        ("dual", {"refresh": "never"}),
        ("dual", {"refresh_every": 3}),
        ("vicinity", {"look_back": 2, "look_ahead": 2}),
        ("vicinity", {"look_back": 2, "look_ahead": 2, "warmup": 3}),
        ("delayed", {"refresh_every": 3}),
        ("delayed", {}),
        ("dllm", {}),
        ("dllm", {"ratio": 0.5}),
        ("dllm", {"response_interval": 3}),
        ("dllm", {"prompt_interval": 3}),
    ]
    tokens = {
        str([o.token_ids for o in all_outputs(reference, cache, args)]) for cache, args in variants
    }
    assert len(tokens) == len(variants)


def block_causal(reference: Reference, mask_block: int) -> LogitsOf:
    """The checkpoint as if its attention were block-causal."""

    def logits_of(canvas: Any) -> Any:
        visible = block_causal_matrix(len(canvas), mask_block)
        return reference.model.logits(canvas, visible=visible)

    return logits_of


@pytest.mark.parametrize("mask_block", [1, 4, 5, 16])
@pytest.mark.parametrize(("name", "args"), [*POLICIES, REVOKING])
def test_the_exact_cache_equals_computing_everything(
    reference: Reference, name: str, args: dict[str, Any], mask_block: int
) -> None:
    for prompt in [*PROMPTS, [7] * 15, [7] * 16, [7] * 17]:
        params = SamplingParams(max_tokens=21, remasking=name, remasking_args=args, ignore_eos=True)
        forward = ExactCacheForward(reference.model, MASK, mask_block, len(prompt) + 21)
        cached = reference_generate(forward, prompt, params, MASK, [EOS], None, mask_block)
        logits_of = block_causal(reference, mask_block)
        full = reference_block_causal(logits_of, prompt, params, MASK, [EOS], mask_block)
        assert (full.token_ids, full.nfe, full.num_unmasked) == (
            (cached.token_ids, cached.nfe, cached.num_unmasked)
        )
        assert full.computed_rows == forward.rows.computed_rows


def test_what_block_causal_decoding_computes_is_what_is_counted_by_hand(
    reference: Reference,
) -> None:
    params = SamplingParams(max_tokens=11, remasking="low_confidence", ignore_eos=True)
    out = reference_block_causal(block_causal(reference, 4), [7] * 6, params, MASK, [EOS], 4)
    # Blocks [6, 8), [8, 12), [12, 16) and [16, 17). The first step computes the prompt as well;
    # the first step of each later block computes the block in front once more.
    assert out.nfe == 11
    assert out.computed_rows == 8 + 1 * 4 + (8 + 3 * 4) + (8 + 3 * 4) + 5


@pytest.mark.parametrize("mask_block", [4, 8])
@pytest.mark.parametrize("num_steps", [1, 3, 4])
def test_sdars_static_strategy_is_low_confidence_in_a_fixed_number_of_steps(
    reference: Reference, mask_block: int, num_steps: int
) -> None:
    logits_of = block_causal(reference, mask_block)
    params = SamplingParams(
        max_tokens=24,
        remasking="low_confidence",
        remasking_args={"num_steps_per_block": num_steps},
        ignore_eos=True,
    )
    for prompt in [[7, 8, 9, 10] * 2, random_prompts(1, seed=2)[0][:1] * 8]:
        published = published_sdar(
            logits_of, prompt, mask=MASK, max_tokens=24, mask_block=mask_block, num_steps=num_steps
        )
        ours = reference_block_causal(logits_of, prompt, params, MASK, [EOS], mask_block)
        assert (ours.token_ids, ours.nfe) == (published.token_ids, published.nfe)
        assert published.num_commits == 24 // mask_block


def test_sdars_dynamic_strategy_with_one_token_due_is_a_threshold(reference: Reference) -> None:
    logits_of = block_causal(reference, 4)
    params = SamplingParams(
        max_tokens=24, remasking="threshold", remasking_args={"threshold": 0.5}, ignore_eos=True
    )
    shorter = 0
    for prompt in PROMPTS:  # of any length: an uneven prompt makes the first block shorter
        published = published_sdar(
            logits_of, prompt, mask=MASK, max_tokens=24, mask_block=4, num_steps=4, threshold=0.5
        )
        wanted = params.with_overrides({"max_tokens": len(published.token_ids)})
        ours = reference_block_causal(logits_of, prompt, wanted, MASK, [EOS], 4)
        assert (ours.token_ids, ours.nfe) == (published.token_ids, published.nfe)
        shorter += ours.nfe < 24
    assert shorter == len(PROMPTS)


def test_rows_cached_under_the_tokens_they_hold_give_the_logits_of_the_whole(
    reference: Reference,
) -> None:
    canvas = [5, 6, 7, 8, MASK, MASK, MASK, MASK, MASK]
    rows = CachedRows(reference.model, 9)
    everything = set(range(9))
    np.testing.assert_array_equal(
        rows.compute(canvas, everything, everything), reference.model.logits(canvas)
    )
    again = rows.compute(canvas, {4, 6}, everything)
    np.testing.assert_allclose(again[[4, 6]], reference.model.logits(canvas)[[4, 6]], atol=1e-12)
    assert np.isnan(np.delete(again, [4, 6], axis=0)).all()
