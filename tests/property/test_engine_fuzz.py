"""Random additions, steps and aborts: pages stay in order and no request feels the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, BlockOutput, RequestOutput, SamplingParams
from tests.helpers.engines import as_prompts, make_llm, sharp_checkpoint

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"num_steps_per_block": 2}),
    ("threshold", {"threshold": 0.6}),
    ("starr", {}),
    ("starr", {"patience": 1}),
    ("starr", {"revoke_below": 0.2}),
    ("wino", {"tau1": 0.4, "tau2": 0.7, "cap_min": 2}),
    ("klass", {"epsilon": 1.0}),
    ("dynamic_dllm", {"mode": "token", "theta_0": 0.6}),
    ("tacg", {"tau": 0.6, "floor": 0.3}),
    ("credit", {"threshold": 0.6}),
    ("saber", {}),
    ("t2m", {"threshold": 0.4, "max_resets": 1}),
    ("token_edit", {"threshold": 0.4, "edit_threshold": 0.2, "max_post_steps": 1}),
]
EXITS: list[dict[str, Any]] = [
    {},
    {},
    {"early_exit": "prophet", "early_exit_args": {"early": 2, "middle": 1, "late": 0.5}},
    {"early_exit": "sched", "early_exit_args": {"high": 1, "low": 0.5}},
]
CACHES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("dual", {}),
    ("dual", {"refresh_every": 2}),
    ("dllm", {"prompt_interval": 4, "response_interval": 3, "ratio": 0.4}),
]
SAMPLING: list[dict[str, Any]] = [
    {},
    {"top_p": 0.8, "top_k": 5, "min_p": 0.05},
    {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"logit_bias": {7: 3.0, 9: -100.0}, "min_tokens": 1},
    {"allowed_token_ids": (1, 5, 6, 7, 8), "logprobs": 1},
    {"eos_last": True},
    {"suppress_eos": True},
]
POOLS = [
    # The longest request below has 12 + 15 rows, and 5 shadow rows.
    {"page_size": 1, "num_pages": 40, "max_num_requests": 5},
    {"page_size": 4, "num_pages": 9, "max_num_requests": 8, "launch_ahead": "on"},
    {"page_size": 7, "num_pages": 30, "max_num_requests": 3, "max_num_batched_tokens": 32},
    {"page_size": 32, "num_pages": 2, "max_num_requests": 2, "launch_ahead": "on"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def roomy(folder: Path) -> LLM:
    return make_llm(folder)


def random_request(rng: np.random.Generator) -> tuple[list[int], SamplingParams]:
    remasking, remasking_args = POLICIES[rng.integers(len(POLICIES))]
    cache, cache_args = CACHES[rng.integers(len(CACHES))]
    length = int(rng.integers(1, 6))
    params = SamplingParams(
        max_tokens=length * int(rng.integers(1, 4)),
        block_length=length,
        temperature=float(rng.choice([0.0, 0.0, 0.8])),
        seed=int(rng.integers(100)),
        ignore_eos=bool(rng.integers(2)),
        stop_token_ids=tuple(rng.integers(4, 101, 6).tolist()),
        remasking=remasking,
        remasking_args=remasking_args,
        cache=cache,
        cache_args=cache_args,
        **EXITS[rng.integers(len(EXITS))],
        **SAMPLING[rng.integers(len(SAMPLING))],
    )
    return rng.integers(4, 101, rng.integers(1, 13)).tolist(), params


class Driver:
    """One engine under random use, and what is known of its requests."""

    def __init__(self, llm: LLM, rng: np.random.Generator) -> None:
        self.engine, self.rng = llm.engine, rng
        self.asked: dict[str, tuple[list[int], SamplingParams]] = {}
        self.blocks: dict[str, list[int]] = {}
        self.live: set[str] = set()
        self.finished: list[RequestOutput] = []

    def add(self) -> None:
        prompt, params = random_request(self.rng)
        if self.engine.spec.logits_shift and params.remasking == "wino":
            return  # refused there
        request_id = self.engine.add_request(prompt, params)
        self.asked[request_id], self.blocks[request_id] = (prompt, params), []
        self.live.add(request_id)

    def abort(self) -> None:
        if not self.live:
            return
        request_id = str(self.rng.choice(sorted(self.live)))
        output = self.engine.abort(request_id)
        assert output is not None
        assert list(output.token_ids) == self.blocks[request_id]
        self.live.remove(request_id)

    def step(self) -> None:
        for event in self.engine.step():
            assert event.request_id in self.live
            if isinstance(event, BlockOutput):
                self.blocks[event.request_id] += event.token_ids
            else:
                assert list(event.token_ids) == self.blocks[event.request_id]
                self.live.remove(event.request_id)
                self.finished.append(event)

    def check(self) -> None:
        """Nothing is lost: requests are where they say, and pages belong to running ones."""
        engine = self.engine
        engine.page_pool.check_invariants()
        assert engine.num_running + engine.num_waiting == len(self.live)
        assert engine.num_running <= engine.config.max_num_requests
        held = [
            len(entry.pages.pages) for entry in engine.scheduler._running if entry.pages is not None
        ]
        kept = sum(len(table.pages) for table in engine.canvases._entries.values())
        assert engine.page_pool.num_free + sum(held) + kept == engine.page_pool.num_pages - 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"pages_of_{pool['page_size']}")
def test_random_use_leaks_no_page_and_every_output_is_that_of_the_request_alone(
    folder: Path, roomy: LLM, pool: dict[str, int], seed: int
) -> None:
    use_at_random(make_llm(folder, **pool), roomy, np.random.default_rng([seed, pool["page_size"]]))


def test_so_does_random_use_where_logits_are_shifted(folder: Path) -> None:
    shift = {"logits_shift": True}
    use_at_random(
        make_llm(folder, shift, **POOLS[1]), make_llm(folder, shift), np.random.default_rng(5)
    )


def use_at_random(llm: LLM, roomy: LLM, rng: np.random.Generator) -> None:
    driver = Driver(llm, rng)
    acts = [driver.add, driver.step, driver.abort]
    for _ in range(70):
        act = acts[driver.rng.choice(3, p=[0.3, 0.62, 0.08])]
        act()
        driver.check()
    # Each step takes every request of the batch, or those left out of the one before, further.
    most = sum(2 * driver.asked[name][1].max_tokens for name in driver.live)
    for _ in range(most):
        driver.step()
        driver.check()
    assert not driver.live
    assert len(driver.finished) > 5
    for output in driver.finished:
        prompt, params = driver.asked[output.request_id]
        [alone] = roomy.generate(as_prompts([prompt]), params)
        assert (output.token_ids, output.finish_reason) == (alone.token_ids, alone.finish_reason)
        assert (output.nfe, output.computed_rows) == (alone.nfe, alone.computed_rows)
        # Saber revokes, too, but fewer than it unmasks. Editing takes a step more for each block.
        if not {"revoke_below", "max_resets", "max_post_steps"} & params.remasking_args.keys():
            assert output.nfe <= params.max_tokens
        assert output.nfe <= 2 * params.max_tokens
        assert output.num_unmasked % params.block_length == 0
