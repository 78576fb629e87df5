"""Sub-blocks of a block-causal mask, and a causal context, against the dense twin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestError, SamplingParams
from tests.helpers.engines import as_prompts, assert_all_pages_free, assert_same, make_llm
from tests.helpers.llada_reference import Array
from tests.helpers.reference_engine import ReferenceOutput, reference_generate
from tests.helpers.sdar_checkpoints import sdar_config, sharp_sdar_checkpoint
from tests.helpers.sdar_reference import SDARReference

MASK, EOS = 3, 1
BLOCK = 8
KINDS: dict[str, dict[str, Any]] = {
    "sub-blocks": {"sub_block_length": 4},
    "shifted sub-blocks": {"sub_block_length": 4, "logits_shift": True},
    "causal context": {"attention_kind": "causal_context"},
    "shifted causal context": {"attention_kind": "causal_context", "logits_shift": True},
}
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("block_causal", {}),
    ("none", {}),
    ("prefix", {}),
    ("dual", {}),
    ("vicinity", {"look_back": 3}),
]
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("kinds"), block_size=BLOCK)


@pytest.fixture(scope="module")
def twin(folder: Path) -> SDARReference:
    return SDARReference.from_folder(folder, sdar_config(block_size=BLOCK))


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def llm(folder: Path, kind: str) -> LLM:
    return make_llm(folder, KINDS[kind], page_size=16)


def expected_of(
    twin: SDARReference, kind: str, prompt: Sequence[int], params: SamplingParams
) -> ReferenceOutput:
    """Everything is computed at every step, under the mask written out as a matrix."""
    spec = KINDS[kind]
    opens = spec.get("attention_kind") == "causal_context"

    def logits_of(canvas: Sequence[int]) -> Array:
        if not opens:
            return twin.logits(canvas)
        first_mask = list(canvas).index(MASK)
        done = (first_mask - len(prompt)) // (params.block_length or BLOCK)
        start = len(prompt) + done * (params.block_length or BLOCK)
        rows = np.arange(len(canvas))
        visible = (rows[None, :] <= rows[:, None]) | (rows[:, None] >= start)
        return twin.logits(canvas, visible=visible)

    wanted = params.with_overrides(
        {"block_length": params.block_length or spec.get("sub_block_length", BLOCK)}
    )
    return reference_generate(
        logits_of, prompt, wanted, MASK, [EOS], None, BLOCK,
        shift=int(spec.get("logits_shift", False)), opens_block=opens,
    )  # fmt: skip


def prompts_for(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 101, length).tolist() for length in (1, 7, 8, 13, 17, 40)]


@pytest.mark.parametrize("policy", range(len(POLICIES)))
@pytest.mark.parametrize(("cache", "args"), EXACT)
def test_an_exact_cache_equals_computing_everything(
    llm: LLM, twin: SDARReference, kind: str, policy: int, cache: str, args: dict[str, Any]
) -> None:
    name, policy_args = POLICIES[policy]
    params = SamplingParams(
        max_tokens=21, remasking=name, remasking_args=policy_args, cache=cache, cache_args=args,
        ignore_eos=True,
    )  # fmt: skip
    prompts = prompts_for(policy * len(EXACT) + EXACT.index((cache, args)))
    for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
        assert output.error is None
        assert output.cache_label == "exact"
        assert_same(output, expected_of(twin, kind, prompt, params))


def test_every_divisor_of_a_mask_block_or_any_length_of_an_open_block_can_be_decoded(
    llm: LLM, twin: SDARReference, kind: str
) -> None:
    opens = "context" in kind
    for length in (2, 8, 5 if opens else 1, 24 if opens else 4):
        params = SamplingParams(
            max_tokens=21, block_length=length, remasking="threshold", ignore_eos=True,
            remasking_args={"threshold": 0.5},
        )  # fmt: skip
        prompts = prompts_for(60 + length)[1:4]
        for prompt, output in zip(prompts, llm.generate(as_prompts(prompts), params), strict=True):
            assert_same(output, expected_of(twin, kind, prompt, params))
    if not opens:
        with pytest.raises(RequestError, match=r"blocks of 8; .* take a divisor of it"):
            llm.generate(as_prompts(prompts), params.with_overrides({"block_length": 3}))


def test_shared_prefixes_and_mixed_batches_in_random_order_change_no_token(
    folder: Path, kind: str
) -> None:
    llm = make_llm(folder, KINDS[kind], page_size=16)
    plain = make_llm(folder, KINDS[kind], page_size=16, prefix_caching=False)
    shared = prompts_for(3)[-1]
    prompts = [[*shared[:at], *prompt] for at, prompt in zip((40, 33, 32, 16), prompts_for(5)[:4],
                                                            strict=True)]  # fmt: skip
    settings = [
        SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.5 * (i % 2), seed=i,
                       remasking=("threshold", "credit")[i % 2])
        for i in range(4)
    ]  # fmt: skip
    alone = [plain.generate(as_prompts([p]), s)[0] for p, s in zip(prompts, settings, strict=True)]
    order = list(range(4)) * 2
    random.Random(1).shuffle(order)
    mixed = llm.generate(as_prompts([prompts[i] for i in order]), [settings[i] for i in order])
    again = llm.generate(as_prompts(prompts), settings)
    for i, output in [*zip(order, mixed, strict=True), *enumerate(again)]:
        assert (output.token_ids, output.nfe) == (alone[i].token_ids, alone[i].nfe)
    assert all(output.num_cached_tokens >= 16 for output in again)
    assert_all_pages_free(llm.engine)


def test_preempted_requests_resume_with_the_same_tokens(folder: Path, kind: str) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True, remasking="threshold")
    prompts = as_prompts(prompts_for(8)[:4])
    roomy = make_llm(folder, KINDS[kind], page_size=8).generate(prompts, params)
    tight = make_llm(folder, KINDS[kind], page_size=8, num_pages=13, prefix_caching=False)
    outputs = tight.generate(prompts, params)
    assert sum(output.num_preemptions for output in outputs) > 0
    assert [o.token_ids for o in outputs] == [o.token_ids for o in roomy]


def test_without_the_commit_of_a_finished_block_the_context_would_be_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of an open block have seen what follows them; kept as they are, tokens change."""
    spec = KINDS["causal context"]
    params = SamplingParams(max_tokens=40, ignore_eos=True, remasking="low_confidence")
    prompts = as_prompts(prompts_for(9))
    right = make_llm(folder, spec, page_size=8).generate(prompts, params)
    llm = make_llm(folder, spec, page_size=8)
    keeps = llm.engine.progress

    def commit_without(running: Any) -> Any:
        running.request.canvas.opens_block = False
        done = type(keeps)._commit(keeps, running)
        running.request.canvas.opens_block = True
        return done

    monkeypatch.setattr(keeps, "_commit", commit_without)
    wrong = llm.generate(prompts, params)
    assert any(a.token_ids != b.token_ids for a, b in zip(wrong, right, strict=True))
