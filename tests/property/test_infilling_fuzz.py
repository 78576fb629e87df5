"""Random templates in tight pools: no page is lost, and each is filled as it would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from tests.helpers.engines import assert_all_pages_free, make_llm, sharp_checkpoint

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"num_steps_per_block": 2}),
    ("threshold", {"threshold": 0.0}),
    ("starr", {"revoke_below": 1.0}),
]
CACHES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("dual", {}),
    ("dual", {"refresh_every": 2}),
]
POOLS = [
    {"page_size": 1, "num_pages": 60, "max_num_requests": 5},
    {"page_size": 5, "num_pages": 12, "max_num_requests": 8, "max_num_batched_tokens": 45},
]
Asked = tuple[list[int], list[int | None], SamplingParams]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


def random_request(rng: np.random.Generator) -> Asked:
    """A canvas of up to 40 tokens, some of its template masks."""
    prompt = rng.integers(4, 101, rng.integers(0, 12)).tolist()
    share = rng.uniform(0.1, 1.0)
    template: list[int | None] = [
        None if rng.random() < share else int(rng.integers(4, 101))
        for _ in range(rng.integers(2, 28))
    ]
    template[rng.integers(len(template))] = None
    if not prompt:
        template.append(7)
    remasking, remasking_args = POLICIES[rng.integers(len(POLICIES))]
    cache, cache_args = CACHES[rng.integers(len(CACHES))]
    params = SamplingParams(
        block_length=int(rng.integers(1, 9)), temperature=float(rng.choice([0.0, 0.8])),
        seed=int(rng.integers(100)), remasking=remasking, remasking_args=remasking_args,
        cache=cache, cache_args=cache_args,
    )  # fmt: skip
    return prompt, template, params


def run_alone(llm: LLM, asked: Asked) -> RequestOutput:
    prompt, template, params = asked
    llm.engine.add_request(prompt, params, template=template)
    while llm.engine.has_unfinished:
        outputs = llm.engine.step()
    output = outputs[-1]
    assert isinstance(output, RequestOutput)
    return output


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"pages_of_{pool['page_size']}")
def test_random_templates_are_filled_as_alone_and_leak_nothing(
    folder: Path, pool: dict[str, int], seed: int
) -> None:
    rng = np.random.default_rng([seed, pool["page_size"]])
    engine, roomy = make_llm(folder, **pool).engine, make_llm(folder)
    asked: dict[str, Asked] = {}
    finished: list[RequestOutput] = []
    for turn in range(400):
        if turn < 60 and rng.random() < 0.4:
            request = random_request(rng)
            name = engine.add_request(request[0], request[2], template=request[1])
            asked[name] = request
        if turn < 60 and rng.random() < 0.05 and asked:
            engine.abort(str(rng.choice(sorted(asked))))
        finished += [out for out in engine.step() if isinstance(out, RequestOutput)]
        engine.page_pool.check_invariants()
        if turn >= 60 and not engine.has_unfinished:
            break
    assert not engine.has_unfinished
    assert_all_pages_free(engine)
    assert len(finished) > 10
    for output in finished:
        prompt, template, _ = request = asked[output.request_id]
        alone = run_alone(roomy, request)
        assert (output.token_ids, output.nfe) == (alone.token_ids, alone.nfe)
        assert output.mean_log_confidence == pytest.approx(alone.mean_log_confidence, abs=1e-4)
        canvas = [*prompt, *template]
        first = len(output.prompt_token_ids)
        assert canvas.index(None) == first
        for token, given in zip(output.token_ids, canvas[first:], strict=False):
            assert given is None or token == given
        assert output.num_unmasked == template.count(None)
