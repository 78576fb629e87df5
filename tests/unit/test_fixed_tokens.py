"""Every policy in blocks that hold fixed tokens or are shorter, beside blocks of other lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.decoding.base import REMASKING_POLICIES, BlockView, RemaskingPolicy
from starr_engine.decoding.guarantee import MAX_REVOCATIONS_PER_POSITION
from starr_engine.decoding.policies.saber import SaberPolicy
from starr_engine.decoding.policies.t2m import PUBLISHED_THRESHOLDS, T2mPolicy
from tests.helpers.engines import as_prompts, assert_all_pages_free, make_llm, sharp_checkpoint
from tests.helpers.policy_views import view

BLOCK = 6
TEMPLATE: list[int | list[int]] = [2, [5, 6, 7], 3, [8], 4, [9] * 8, 2]
"""22 positions from the first mask to the last: three blocks of 6 that hold fixed tokens (2 + 1,
1 and 5 masks of 6, then 2), and one of 5."""

CANVAS = [
    token for part in TEMPLATE for token in ([None] * part if isinstance(part, int) else part)
]
NUM_MASKS = CANVAS.count(None)
NUM_OPEN_BLOCKS = sum(None in CANVAS[at : at + BLOCK] for at in range(0, len(CANVAS), BLOCK))

REVOKING: list[tuple[str, dict[str, Any]]] = [
    ("hierarchy", {"revoke_below": 1.0, "threshold": 0.3, "low": 0.1}),
    ("starr", {"revoke_below": 1.0, "tau_min": 0.2, "c_slow": 0.1}),
    ("saber", {}),
    ("saber", {"n": 5}),
    *[("t2m", {"strategy": name, "threshold": 0.2}) for name in PUBLISHED_THRESHOLDS],
    ("t2m", {"remask_threshold": 1.0, "max_share": 1.0, "threshold": 0.1}),
    ("wino", {"tau1": 0.2, "tau2": 1.0}),
]
CASES = [
    *[(name, {}) for name in REMASKING_POLICIES if (name, {}) not in REVOKING],
    *[
        (name, {"num_steps_per_block": steps})
        for name in ("low_confidence", "random", "entropy", "margin", "maskgit_plus")
        for steps in (1, 4, 40)
    ],
    *REVOKING,
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder: Path = sharp_checkpoint(tmp_path_factory.mktemp("sharp"))
    made = make_llm(folder)
    yield made
    assert_all_pages_free(made.engine)


def infill(llm: LLM, **fields: Any) -> RequestOutput:
    params = SamplingParams(**({"block_length": BLOCK, "cache": "none"} | fields))
    [output] = llm.generate([{"prompt_token_ids": [11, 12], "template": TEMPLATE}], params)
    return output


def assert_filled(output: RequestOutput) -> None:
    assert output.error is None
    assert len(output.token_ids) == len(CANVAS)
    for token, given in zip(output.token_ids, CANVAS, strict=True):
        assert given is None or token == given
    assert output.num_unmasked == NUM_MASKS


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize(("name", "args"), CASES)
def test_every_policy_fills_the_masks_alone_within_its_bound(
    llm: LLM, name: str, args: dict[str, Any], cache: str
) -> None:
    output = infill(llm, remasking=name, remasking_args=args, cache=cache)
    assert_filled(output)
    most = NUM_MASKS
    if (name, args) in REVOKING:
        most = (2 + MAX_REVOCATIONS_PER_POSITION) * len(CANVAS)
    elif (limit := REMASKING_POLICIES.create(name, args).step_limit) is not None:
        most = limit * NUM_OPEN_BLOCKS  # it bounds its own steps
    assert NUM_OPEN_BLOCKS <= output.nfe <= most


@pytest.mark.parametrize(("name", "args"), [(name, {}) for name in REMASKING_POLICIES])
def test_blocks_of_different_lengths_are_decided_in_one_batch_as_alone(
    llm: LLM, name: str, args: dict[str, Any]
) -> None:
    # Rows of one policy: blocks of 6, of 4 and then 3, of 5, and of 6 with a last one of 1. Those
    # that keep numbers of vocabulary size join and leave with and without them.
    prompts: list[dict[str, Any]] = [
        {"prompt_token_ids": [11, 12], "template": TEMPLATE},
        *as_prompts([[5, 6, 7], [8], [9, 10]]),
    ]
    params = [
        SamplingParams(
            block_length=block, max_tokens=count, cache="none", remasking=name, remasking_args=args,
            ignore_eos=True,
        )
        for block, count in [(BLOCK, 1), (4, 7), (5, 10), (BLOCK, 7)]
    ]  # fmt: skip
    together = llm.generate(prompts, params)
    assert_filled(together[0])
    for prompt, wanted, output in zip(prompts, params, together, strict=True):
        [alone] = llm.generate([prompt], wanted)
        assert (alone.token_ids, alone.nfe) == (output.token_ids, output.nfe)


@pytest.mark.parametrize("name", list(REMASKING_POLICIES))
def test_an_early_exit_fills_the_masks_of_each_block_and_nothing_else(llm: LLM, name: str) -> None:
    # credit puts tokens of its own; the rule goes over all policies.
    rule: dict[str, Any] = {"early_exit": "sched", "early_exit_args": {"high": 0, "low": 0}}
    output = infill(llm, remasking=name, **rule)
    assert_filled(output)
    assert output.nfe == NUM_OPEN_BLOCKS


@pytest.mark.parametrize(
    ("template", "steps", "nfe"),
    [
        # 6 positions in 2 steps are 3 at a step, of 3 masks among fixed tokens: one step.
        ([2, [5, 6, 7], 1], 2, 1),
        # In 3 steps 2 at a step: two steps for 3 masks.
        ([2, [5, 6, 7], 1], 3, 2),
        # More steps than positions: one at a step, 3 masks.
        ([2, [5, 6, 7], 1], 40, 3),
        # A block of 6 in 4 steps of 2, 2, 1 and 1; a short one of 2 in 4 steps of 1, 1, 0 and 0.
        ([8], 4, 4 + 2),
    ],
)
def test_a_schedule_divides_the_length_of_the_block_at_hand(
    llm: LLM, template: list[Any], steps: int, nfe: int
) -> None:
    params = SamplingParams(
        block_length=BLOCK, remasking="low_confidence", cache="none",
        remasking_args={"num_steps_per_block": steps},
    )  # fmt: skip
    [output] = llm.generate([{"prompt_token_ids": [11], "template": template}], params)
    assert (output.error, output.nfe) == (None, nfe)


def test_dreams_schedule_takes_a_share_of_the_masks_and_all_of_them_at_its_last_step(
    llm: LLM,
) -> None:
    # T = 3, eps = .1: t = 1, .7, .4, .1. Of 5 masks among 6 positions floor(5 * .3) = 1, then
    # floor(4 * 3/7) = 1, then all. Of 2 masks floor(.6) = 0 and floor(.86) = 0, so that only the
    # last step is taken; of 3 masks none, floor(1.29) = 1, and the rest.
    args = {"num_steps_per_block": 3, "eps": 0.1}
    for template, nfe in [
        ([3, [5], 2], 3), ([1, [5, 6, 7, 8], 1], 1), ([2, [5, 6, 7], 1], 2),
    ]:  # fmt: skip
        params = SamplingParams(
            block_length=BLOCK, remasking="maskgit_plus", remasking_args=args, cache="none"
        )
        [output] = llm.generate([{"prompt_token_ids": [11], "template": template}], params)
        assert (output.error, output.nfe) == (None, nfe)


# What a policy remembers of a fixed token: position 1 below, which is never scored.


@dataclass(frozen=True)
class Told:
    """One policy walked over views of the same block."""

    policy: RemaskingPolicy

    def after(self, *looks: BlockView) -> dict[str, list[Any]]:
        state = self.policy.init_state(1, looks[0].masked.shape[1], torch.device("cpu"))
        for look in looks:
            _, state = self.policy.decide(look, state)
        return {name: values[0].tolist() for name, values in state.items()}


def steps_with_a_fixed_token() -> list[BlockView]:
    return [
        view([0.75, 1.0, 0.5, 0.25], masked=[True, False, True, True]),
        view([0.25, 1.0, 0.75, 0.25], masked=[False, False, True, True]),
        view([0.125, 1.0, 0.25, 0.5], masked=[False, False, False, True]),
    ]


@pytest.mark.parametrize("strategy", list(PUBLISHED_THRESHOLDS))
def test_t2m_spends_no_reset_on_a_fixed_token(strategy: str) -> None:
    policy = T2mPolicy(strategy=strategy, remask_threshold=1.0, max_share=1.0)
    state = Told(policy).after(*steps_with_a_fixed_token())
    assert state["resets"][1] == 0
    if strategy == "low_prob":
        assert state["resets"] == [2, 0, 1, 0]


def test_saber_counts_no_fixed_token_among_those_it_accepted() -> None:
    state = Told(SaberPolicy(n=1)).after(*steps_with_a_fixed_token())
    # theta is 1 at first, so the best goes: .75. Then it is .75, which .75 does not exceed, so the
    # best goes again: .75. Then (.75 + .75) / 2: the last one as the best.
    assert state["accepted"] == [0.75, -1.0, 0.75, 0.5]
    assert state["last"][1] == 1.0
