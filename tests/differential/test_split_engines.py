"""Engines over two ranks give the tokens of one, for every family and whatever is in the batch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine import LLM, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.canvas_cache import PageCopy
from starr_engine.engine.engine import Engine
from starr_engine.engine.step_arrays import StepArrays, StepSizes, read_message
from starr_engine.engine.stream import OutputStream
from starr_engine.errors import RequestError
from starr_engine.make_checkpoint.published import ARCHITECTURES
from starr_engine.outputs import RequestOutput
from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.engines import assert_all_pages_free, random_prompts
from tests.helpers.made import make_sharp
from tests.helpers.rank_threads import RankThreads

SPLIT = sorted(set(ARCHITECTURES) - {"diffusion-gemma"})

KINDS: list[dict[str, Any]] = [
    {},
    {"cache": "none"},
    {"remasking": "threshold", "remasking_args": {"threshold": 0.5}},
    {"temperature": 0.7, "top_p": 0.9, "seed": 3},
    {"cache_probe_rate": 0.5},
]
BIDIRECTIONAL: list[dict[str, Any]] = [
    {"cache": "vicinity"},
    {"cache": "delayed"},
    {"cache": "prefix", "cache_args": {"suffix_window": 8}},
]
SHADOWED: list[dict[str, Any]] = [
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
]


def config_of(folder: Path | str, **options: Any) -> EngineConfig:
    fixed: dict[str, Any] = {"device": "cpu", "dtype": "float32", "num_threads": 1, "num_pages": 80}
    return EngineConfig(model=str(folder), **(fixed | options))


def run(engine: Engine, kinds: list[dict[str, Any]]) -> dict[str, RequestOutput]:
    prompts = random_prompts(len(kinds), seed=1)
    # The same canvas twice, so that pages are copied.
    every = zip([*prompts, prompts[0]], [*kinds, {}], strict=True)
    names = [
        engine.add_request(
            prompt, SamplingParams(**({"max_tokens": 20, "ignore_eos": True} | kind)), str(index)
        )
        for index, (prompt, kind) in enumerate(every)
    ]
    outputs = (out for out in OutputStream(engine, names) if isinstance(out, RequestOutput))
    return {output.request_id: output for output in outputs}


def assert_same_tokens(folder: Path | str, kinds: list[dict[str, Any]], count: int = 2) -> None:
    expected = run(Engine(config_of(folder)), kinds)
    # Other ranks are told tokens, so that no step goes ahead of what is known.
    config = config_of(folder, tensor_parallel_size=count, launch_ahead="on")
    engine = Engine(config, RankThreads)
    assert not engine.runs_ahead
    try:
        outputs = run(engine, kinds)
        assert len(outputs) == len(kinds) + 1
        for name, output in outputs.items():
            assert output.error is None
            assert output.token_ids == expected[name].token_ids
            assert output.nfe == expected[name].nfe
        assert_all_pages_free(engine)
    finally:
        engine.close()


@pytest.mark.parametrize("architecture", SPLIT)
def test_a_mixed_batch_gives_the_tokens_of_one_rank(tmp_path: Path, architecture: str) -> None:
    make_sharp(tmp_path / "model", architecture)
    spec = LLM(str(tmp_path / "model"), num_pages=80, device="cpu").engine.spec
    kinds = KINDS + (BIDIRECTIONAL if spec.mask_block is None else [])
    if not (spec.logits_shift or spec.seeds_block):
        kinds = kinds + SHADOWED
    assert_same_tokens(tmp_path / "model", kinds)


def test_four_ranks_share_two_key_value_heads(tmp_path: Path) -> None:
    make_sharp(tmp_path / "model", "sdar")
    assert_same_tokens(tmp_path / "model", KINDS[:3], count=4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_rows_are_summed_too(tmp_path: Path, dtype: str) -> None:
    make_sharp(tmp_path / "model", "llada-moe")
    scores = []
    for options in ({}, {"tensor_parallel_size": 2}):
        engine = Engine(config_of(tmp_path / "model", dtype=dtype, **options), RankThreads)
        params = SamplingParams(max_tokens=8, logprobs=1, cache="none")
        engine.add_request([5, 6, 7], params.with_overrides({"ignore_eos": True}), "one")
        *_, output = OutputStream(engine, ["one"])
        assert isinstance(output, RequestOutput)
        assert output.logprobs
        scores.append(output.logprobs[0].logprob)
        engine.close()
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


def test_nothing_but_settings_and_batches_crosses(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, llada_config(n_kv_heads=2))
    groups: list[RankThreads] = []

    def start(count: int, device: torch.device) -> RankThreads:
        groups.append(RankThreads(count, device))
        return groups[-1]

    engine = Engine(config_of(folder, tensor_parallel_size=2), start)
    engine.add_request([5, 6, 7], SamplingParams(max_tokens=8, cache_probe_rate=1.0))
    num_steps = 0
    while engine.has_unfinished:
        engine.step()
        num_steps += 1
    engine.close()
    load, pages, *steps, last = groups[0].messages
    assert json.loads(load)["folder"] == str(folder)
    assert json.loads(pages)["num_pages"] == 80
    assert last == b""
    assert len(steps) == 2 * num_steps  # and a probe each
    sizes = [read_message(message, torch.device("cpu"))[0].sizes for message in steps]
    assert all(size.num_rows in (8, 11) for size in sizes)


def test_arrays_are_the_same_once_they_have_travelled() -> None:
    sizes = StepSizes(num_rows=5, num_requests=2, num_read_rows=9, max_pages=3, num_scored=1)
    sent = StepArrays(sizes, torch.device("cpu"), num_facts=7)
    number = itertools.count()
    names = [*sent.packed.views(sent.packed.upload())]
    for name in names:
        array = sent.packed._arrays[name]
        array[...] = np.reshape([next(number) for _ in range(array.size)], array.shape)
    copies = (PageCopy(source=(1, 2), target=(3, 4)), PageCopy(source=(3,), target=(5,)))
    for each in (copies, ()):
        got, got_copies = read_message(sent.message(each), torch.device("cpu"))
        assert got_copies == each
        tensors = got.packed.views(got.packed.upload())
        for name, tensor in sent.packed.views(sent.packed.upload()).items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize(
    ("cache", "args"), [("dllm", {}), ("dual", {"refresh": "drift", "drift_budget": 0.5})]
)
def test_what_needs_whole_values_is_refused(
    tmp_path: Path, cache: str, args: dict[str, Any]
) -> None:
    folder = write_checkpoint(tmp_path)
    engine = Engine(config_of(folder, tensor_parallel_size=2), RankThreads)
    params = SamplingParams(max_tokens=8, cache=cache, cache_args=args)
    with pytest.raises(RequestError, match="how far whole values have moved"):
        engine.add_request([5, 6, 7], params)
    engine.close()
