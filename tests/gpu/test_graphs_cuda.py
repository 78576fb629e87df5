"""CUDA graphs against the same engine without them, and what recordings leave in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.options import EngineOptions
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.engines import as_prompts, make_llm, random_prompts
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

pytestmark = pytest.mark.gpu

KINDS: list[dict[str, Any]] = [
    {"cache": "dual"},
    {"cache": "dual", "remasking": "low_confidence"},
    {"cache": "prefix", "remasking": "threshold"},
    {"cache": "vicinity", "cache_args": {"look_back": 3, "look_ahead": 5}},
    {"cache": "delayed", "remasking": "threshold"},
    {"remasking": "starr", "remasking_args": {"patience": 2, "revoke_below": 0.3}},
    {"remasking": "klass", "temperature": 0.7},
]


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llada_config(max_sequence_length=256, d_model=128, n_heads=2, n_kv_heads=1)
    tensors = llada_tensors(config)
    tensors["model.transformer.ln_f.weight"] = tensors["model.transformer.ln_f.weight"] * 5
    return write_checkpoint(tmp_path_factory.mktemp("llada"), config, tensors)


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"), block_size=8, head_dim=64)


@pytest.fixture(autouse=True)
def _full_float32() -> None:
    torch.set_float32_matmul_precision("highest")


def generate(llm: LLM, kinds: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    params = [
        SamplingParams(**({"max_tokens": 16 + 3 * (n % 4), "block_length": 8} | kind))
        for n, kind in enumerate(kinds)
    ]
    outputs = llm.generate(as_prompts(random_prompts(len(kinds), seed=3)), params)
    return [(output.token_ids, output.nfe) for output in outputs]


def test_graphs_give_the_tokens_of_eager_steps_in_float32(
    bidirectional: Path, block_causal: Path
) -> None:
    for folder, kinds in ((bidirectional, KINDS), (block_causal, KINDS[5:] + [{}] * 3)):
        eager = make_llm(folder, device="cuda", cuda_graphs="off")
        llm = make_llm(folder, device="cuda")
        for _ in range(2):  # the second time nothing is recorded
            assert generate(llm, kinds) == generate(eager, kinds)
        graphs = llm.engine.executor.graphs
        assert graphs is not None
        assert graphs.replays.total() > 10
        assert not any("failed" in reason for reason in graphs.eager)


@pytest.mark.parametrize("backend", ["flashinfer", "torch_varlen", "flash_attn", "xformers"])
@pytest.mark.parametrize("page_size", [16, 256])
def test_every_kernel_can_be_recorded(bidirectional: Path, backend: str, page_size: int) -> None:
    from starr_engine.errors import ConfigError

    options: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "page_size": page_size}
    try:
        llm = make_llm(bidirectional, **options, attention_backend=backend)
    except ConfigError as error:
        pytest.skip(str(error))
    found = generate(llm, KINDS)
    graphs = llm.engine.executor.graphs
    assert graphs is not None
    # Every recording was compared with the step that it was made of.
    assert graphs.replays.total() > 10
    assert not any("failed" in reason for reason in graphs.eager)
    assert all(len(tokens) > 0 for tokens, _ in found)


def test_recordings_of_many_sizes_share_memory(bidirectional: Path) -> None:
    llm = make_llm(bidirectional, device="cuda", max_num_requests=16)
    generate(llm, KINDS * 2)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    generate(llm, KINDS * 2)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(fused_statistics=False),
        EngineOptions(head_on_scored_rows=False),
        EngineOptions(stacked_states=False),
        EngineOptions(compile_backend="inductor"),
    ],
    ids=repr,
)
def test_ablations_change_no_token_in_float32(bidirectional: Path, options: EngineOptions) -> None:
    assert run_engine(bidirectional, options) == run_engine(bidirectional, EngineOptions())


@pytest.mark.parametrize("cuda_graphs", ["auto", "off"])
def test_steps_launched_ahead_change_no_token_in_float32(
    bidirectional: Path, block_causal: Path, cuda_graphs: str
) -> None:
    for folder in (bidirectional, block_causal):
        found = [
            run_engine(folder, EngineOptions(), launch_ahead=ahead, cuda_graphs=cuda_graphs)
            for ahead in ("on", "off")
        ]
        assert found[0] == found[1]


def run_engine(folder: Path, options: EngineOptions, **settings: Any) -> dict[str, tuple[Any, ...]]:
    config = EngineConfig(model=str(folder), device="cuda", dtype="float32", **settings)
    engine = Engine(config, options=options)
    for n, (prompt, kind) in enumerate(zip(random_prompts(7), KINDS, strict=True)):
        engine.add_request(prompt, SamplingParams(max_tokens=16, block_length=8, **kind), str(n))
    found = {}
    while engine.has_unfinished:
        for output in engine.step():
            if isinstance(output, RequestOutput):
                found[output.request_id] = (output.token_ids, output.nfe)
    return found


def test_a_step_is_launched_without_a_wait_for_the_device(bidirectional: Path) -> None:
    config = EngineConfig(model=str(bidirectional), device="cuda", dtype="float32")
    engine = Engine(config)
    assert engine.overlaps
    for prompt in random_prompts(4):
        engine.add_request(prompt, SamplingParams(max_tokens=64, block_length=32, ignore_eos=True))
    for _ in range(6):  # records, and lets libraries choose kernels
        engine.step()
    num_ahead = engine.stats().num_steps_ahead
    with torch.cuda.device(0):
        torch.cuda.set_sync_debug_mode("error")
        try:
            engine.launch()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    engine.finish()
    engine.finish()
    assert engine.stats().num_steps_ahead > num_ahead


def test_what_is_recorded_at_the_start_is_replayed(bidirectional: Path) -> None:
    config = EngineConfig(model=str(bidirectional), device="cuda", record_at_start=True)
    engine = Engine(config)
    graphs = engine.executor.graphs
    assert graphs is not None
    if graphs.rule.copies_table:
        pytest.skip("the attention backend copies page tables")
    engine.add_request([5, 6], SamplingParams(max_tokens=64, block_length=32, ignore_eos=True))
    while engine.has_unfinished:
        engine.step()
    assert set(graphs.replays) <= set(graphs.rule.usual(32))
    assert graphs.replays.total() > 0
