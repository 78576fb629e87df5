"""The engine on a simulated CUDA device ends every request as it does on the CPU.

Every policy and cache alone is in ``test_simulated_cuda_waits.py``; here it is what meets in an
engine: many kinds in one batch, requests that come and go, small pools, other models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from starr_engine import AsyncLLM, RequestOutput, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine import ahead as ahead_of
from starr_engine.engine.engine import Engine
from starr_engine.engine.graphs.recorder import RerunRecorder
from starr_engine.engine.options import EngineOptions
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.llada2_checkpoints import sharp_llada2_checkpoint
from tests.helpers.made import make_sharp
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint
from tests.helpers.simulated_cuda import SimulatedCuda

pytestmark = pytest.mark.usefixtures("simulated_device")

Change = dict[str, Any]
MIXED: list[Change] = [
    {"cache": "dual"},
    {"cache": "prefix", "remasking": "threshold"},
    {"cache": "vicinity", "cache_args": {"look_back": 3, "look_ahead": 5}, "logprobs": 2},
    {"cache": "none", "remasking": "starr", "remasking_args": {"revoke_below": 0.3}},
    {"cache": "delayed", "remasking": "klass", "temperature": 0.7},
    {"cache": "dual", "remasking": "token_edit", "remasking_args": {"threshold": 0.5}},
]
SLOW: list[Change] = [
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
    {"cache": "dllm", "temperature": 0.6, "top_p": 0.9},
    {"repetition_penalty": 1.3, "allowed_token_ids": tuple(range(20, 60))},
    {"trace": True, "early_exit": "sched"},
    {"cache": "dual", "cache_probe_rate": 0.5},
]
BLOCK_CAUSAL: list[Change] = [
    {"remasking": name} for name in ("starr", "threshold", "low_confidence", "token_edit")
]


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"), block_size=8)


@pytest.fixture(autouse=True)
def eager_to_go_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_of, "MOST_LEFT_OUT", 0.5)


def make_engine(folder: Path, device: str, **settings: Any) -> Engine:
    recorder = settings.pop("recorder", None)
    fields = {"dtype": "float32", "max_num_requests": 6} | settings
    config = EngineConfig(model=str(folder), device=device, **fields)
    return Engine(config, options=EngineOptions(recorder=recorder))


def run(engine: Engine, changes: Sequence[Change]) -> dict[str, tuple[Any, ...]]:
    """Requests that come a step apart; of one that is aborted nothing is said."""
    waiting = list(enumerate(zip(random_prompts(len(changes), seed=2), changes, strict=True)))
    found: dict[str, tuple[Any, ...]] = {}
    step = 0
    while waiting or engine.has_unfinished:
        if waiting:
            n, (prompt, change) = waiting.pop(0)
            fields = {
                "max_tokens": 8 + 4 * (n % 2), "block_length": 8, "seed": n,
                "ignore_eos": n % 3 > 0,
            }  # fmt: skip
            engine.add_request(prompt, SamplingParams(**(fields | change)), str(n))
        if step == 5:
            engine.abort("1")
        for output in engine.step():
            if isinstance(output, RequestOutput) and output.request_id != "1":
                assert output.error is None
                found[output.request_id] = summary(output)
        step += 1
    engine.launch()
    assert_all_pages_free(engine)
    return found


def summary(output: RequestOutput) -> tuple[Any, ...]:
    logprobs = [] if output.logprobs is None else [each.logprob for each in output.logprobs]
    trace = None if output.trace is None else len(output.trace.steps)
    return (
        output.token_ids, output.nfe, output.finish_reason, trace,
        [round(logprob, 3) for logprob in logprobs],
    )  # fmt: skip


def check(folder: Path, changes: Sequence[Change], **settings: Any) -> Engine:
    engine = make_engine(folder, "cuda", **settings)
    settings.pop("recorder", None)
    assert run(engine, changes) == run(make_engine(folder, "cpu", **settings), changes)
    return engine


@pytest.mark.parametrize("launch_ahead", ["on", "off"])
def test_many_kinds_in_one_batch(bidirectional: Path, launch_ahead: str) -> None:
    engine = check(bidirectional, [*MIXED, MIXED[0]], launch_ahead=launch_ahead)
    assert (engine.stats().num_steps_ahead > 0) == (launch_ahead == "on")
    graphs = engine.executor.graphs
    assert graphs is not None
    assert graphs.replays.total() > 3
    assert not any("failed" in reason for reason in graphs.eager)


def test_requests_that_the_host_must_look_at(bidirectional: Path) -> None:
    check(bidirectional, SLOW + MIXED[:2])


def test_recordings_that_run_again(bidirectional: Path) -> None:
    engine = check(bidirectional, [MIXED[0]] * 4, recorder=RerunRecorder())
    assert engine.executor.graphs is not None
    assert engine.executor.graphs.replays.total() > 3


def test_block_causal_pages_in_a_small_pool(block_causal: Path) -> None:
    engine = check(
        block_causal, [each | {"max_tokens": 20} for each in BLOCK_CAUSAL], num_pages=8, page_size=8
    )
    assert engine.stats().num_preemptions > 0
    assert engine.stats().num_steps_ahead > 0


def test_prefixes_are_shared(block_causal: Path) -> None:
    prompts = as_prompts([[5, 6, 7] * 8 + [n] for n in range(3)])
    params = SamplingParams(max_tokens=8, block_length=8)
    found = []
    for device in ("cuda", "cpu"):
        llm = make_llm(block_causal, device=device, page_size=8)
        llm.generate(prompts[:1], params)
        found.append([each.token_ids for each in llm.generate(prompts, params)])
        assert llm.engine.stats().prefix_hits > 0
    assert found[0] == found[1]


def test_experts(tmp_path: Path) -> None:
    check(sharp_llada2_checkpoint(tmp_path), [{}, {"remasking": "threshold"}] * 2)


def test_uniform_noise_and_self_conditioning(tmp_path: Path) -> None:
    make_sharp(tmp_path / "made", "diffusion-gemma")
    check(tmp_path / "made", [{"block_length": None}, {"block_length": None, "temperature": 0.5}])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(bidirectional: Path, dtype: str) -> None:
    check(bidirectional, MIXED[:3], dtype=dtype, cuda_graphs="off")


def test_templates_are_filled(bidirectional: Path) -> None:
    template = [None, 7, None, None, 8, 9, None, None]
    found = []
    for device in ("cuda", "cpu"):
        engine = make_engine(bidirectional, device)
        params = SamplingParams(block_length=4, cache="dual")
        engine.add_request([5, 6], params, template=template)
        engine.add_request([5, 6], params, template=template)
        engine.add_request(
            [5, 6], SamplingParams(block_length=8, logprobs=1), template=template,
            given=[11, 12, 13, 14, 15],
        )  # fmt: skip
        outputs = []
        while engine.has_unfinished:
            outputs += [each for each in engine.step() if isinstance(each, RequestOutput)]
        found.append([summary(each) for each in outputs])
    assert found[0] == found[1]


def test_another_thread_tells_of_a_step_while_the_next_one_runs(bidirectional: Path) -> None:
    params = SamplingParams(max_tokens=16, block_length=8, ignore_eos=True, cache="dual")
    prompts = as_prompts(random_prompts(3, seed=2))

    async def served() -> list[tuple[int, ...]]:
        async with AsyncLLM(str(bidirectional), device="cuda", dtype="float32") as llm:

            async def one(prompt: dict[str, list[int]]) -> tuple[int, ...]:
                async for event in llm.stream(prompt, params):
                    if isinstance(event, RequestOutput):
                        last = event
                return tuple(last.token_ids)

            return await asyncio.gather(*map(one, prompts))

    expected = make_llm(bidirectional).generate(prompts, params)
    assert asyncio.run(served()) == [tuple(each.token_ids) for each in expected]


def test_what_is_measured_of_memory_leaves_room_for_the_largest_step(
    bidirectional: Path, simulated_device: SimulatedCuda
) -> None:
    engine = make_engine(bidirectional, "cuda", max_num_requests=100_000, kv_memory=0.25)
    config = engine.config
    assert config.num_pages < 100_000
    assert len(run(engine, MIXED[:3])) == 2
