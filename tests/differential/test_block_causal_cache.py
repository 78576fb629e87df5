"""The exact cache of block-causal models: with it and without it, the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES, CacheView, StepKind, StepPlan
from starr_engine.cache.policies.block_causal import BlockCausalCache
from tests.helpers.engines import as_prompts, assert_all_pages_free, make_llm
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

BLOCK = 8
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
    ("wino", {"tau1": 0.3, "tau2": 0.6, "cap_min": 2}),
    ("klass", {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return make_llm(folder, page_size=8, prefix_caching=False, num_threads=1)


def prompts_around_block_ends(count: int = 1) -> list[list[int]]:
    """Prompts whose length is 0, 1 or B - 1 beyond a multiple of the block length."""
    rng = np.random.default_rng(2)
    lengths = [8, 9, 15, 16, 17, 33, 7] * count
    return [rng.integers(4, 101, length).tolist() for length in lengths]


def params(cache: str, index: int = 0, **changes: Any) -> SamplingParams:
    name, args = POLICIES[index % len(POLICIES)]
    return SamplingParams(
        **{
            "max_tokens": 19,
            "remasking": name,
            "remasking_args": args,
            "cache": cache,
            "ignore_eos": True,
            "seed": index,
            "temperature": 0.5 if index % 4 == 3 else 0.0,
        }
        | changes
    )


def tokens(outputs: list[RequestOutput]) -> list[tuple[tuple[int, ...], int]]:
    return [(output.token_ids, output.nfe) for output in outputs]


@pytest.mark.parametrize("policy", range(len(POLICIES)))
def test_cached_and_uncached_give_the_same_tokens_alone(llm: LLM, policy: int) -> None:
    for prompt in prompts_around_block_ends():
        [plain] = llm.generate(as_prompts([prompt]), params("none", policy))
        [cached] = llm.generate(as_prompts([prompt]), params("block_causal", policy))
        assert tokens([cached]) == tokens([plain])
        assert (plain.cache_label, cached.cache_label) == ("exact", "exact")
        assert cached.computed_rows < plain.computed_rows


@pytest.mark.parametrize("page_size", [8, 16])
def test_mixed_batches_in_random_order_give_what_each_request_gives_alone(
    folder: Path, page_size: int
) -> None:
    llm = make_llm(folder, page_size=page_size, max_num_requests=8, prefix_caching=False)
    prompts = prompts_around_block_ends(2)
    asked = [params("block_causal", index) for index in range(len(prompts))]
    alone = [
        llm.generate(as_prompts([prompt]), params("none", index))[0]
        for index, prompt in enumerate(prompts)
    ]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(prompts))
        outputs = llm.generate(as_prompts([prompts[i] for i in order]), [asked[i] for i in order])
        assert tokens(outputs) == tokens([alone[i] for i in order])
    assert_all_pages_free(llm.engine)


def test_every_row_is_computed_once_for_its_context_and_once_for_its_commit(llm: LLM) -> None:
    [output] = llm.generate(
        as_prompts([[5] * 19]), params("block_causal", max_tokens=21, remasking_args={}, index=0)
    )
    # Rows 19..39: 5, 8 and 8 forwards of one token. The first computes all 24 rows, the first of
    # each later block the block before as well.
    assert output.nfe == 21
    assert output.computed_rows == 24 + 4 * 8 + (8 + 8) + 7 * 8 + (8 + 8) + 7 * 8


def test_other_policies_are_exact_here_where_blocks_begin_with_a_refresh(llm: LLM) -> None:
    for cache in ("prefix", "dual", "vicinity"):
        for index, prompt in enumerate(prompts_around_block_ends()):
            [plain] = llm.generate(as_prompts([prompt]), params("none", index))
            [cached] = llm.generate(as_prompts([prompt]), params(cache, index))
            assert tokens([cached]) == tokens([plain])
            assert cached.cache_label == "exact"
    [output] = llm.generate(as_prompts([[5] * 9]), params("delayed"))
    assert output.cache_label == "approximate: temporal reuse"


def test_auto_is_block_causal_here(llm: LLM) -> None:
    [auto] = llm.generate(as_prompts([[5] * 9]), params("auto"))
    [named] = llm.generate(as_prompts([[5] * 9]), params("block_causal"))
    assert tokens([auto]) == tokens([named])
    assert auto.computed_rows == named.computed_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutCommit(BlockCausalCache):
    """As ``block_causal``, but a finished block keeps the rows of its last denoising step."""

    admit: bool = False

    shares_prefix: ClassVar[bool] = False

    def plan(self, view: CacheView) -> StepPlan:
        plan = BlockCausalCache.plan(self, view)
        if plan.kind is not StepKind.COMMIT:
            return plan
        block = ((view.block_start, view.block_stop),)
        why = "for a test" if self.admit else ""
        return StepPlan(
            kind=StepKind.BLOCK, query=block, write=block, read=plan.read, dirty_allowed=why
        )


@pytest.fixture
def without_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CACHE_POLICIES._targets, "without_commit", WithoutCommit)


@pytest.mark.usefixtures("without_commit")
def test_without_the_commit_the_plan_is_refused_and_the_others_go_on(llm: LLM) -> None:
    prompts = as_prompts([[5] * 9, [6] * 9])
    plain, refused = llm.generate(prompts, [params("block_causal"), params("without_commit")])
    assert plain.error is None
    assert "WithoutCommit failed: plan refused: a dirty row outside" in str(refused.error)
    assert_all_pages_free(llm.engine)


@pytest.mark.usefixtures("without_commit")
def test_without_the_commit_other_tokens_come_out(llm: LLM) -> None:
    changed = 0
    for prompt in prompts_around_block_ends():
        [exact] = llm.generate(as_prompts([prompt]), params("block_causal"))
        [stale] = llm.generate(
            as_prompts([prompt]), params("without_commit", cache_args={"admit": True})
        )
        changed += exact.token_ids != stale.token_ids
    assert changed >= 4


def test_what_a_block_causal_model_cannot_do_is_refused(llm: LLM, folder: Path) -> None:
    from starr_engine import RequestError
    from tests.helpers.checkpoints import write_checkpoint

    with pytest.raises(RequestError, match=r"block_length=3, but this model's attention has .* 8"):
        llm.generate(as_prompts([[5]]), params("none", block_length=3))
    with pytest.raises(RequestError, match="sees nothing behind what it writes"):
        llm.engine.add_request([5], params("none"), template=[None, None, 7])
    bidirectional = make_llm(write_checkpoint(folder / "llada"))
    with pytest.raises(RequestError, match="cache='block_causal': this model is bidirectional"):
        bidirectional.generate(as_prompts([[5]]), params("block_causal"))
