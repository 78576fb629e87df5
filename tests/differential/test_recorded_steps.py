"""Steps on the padded grid of a recording give the tokens of the same steps without padding.

What a CUDA graph would replay is run again here, on the tensors that the graph would read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from starr_engine import RequestOutput, SamplingParams
from starr_engine.attention import requirements
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.graphs.recorder import RerunRecorder, Run
from starr_engine.engine.options import EngineOptions
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.engines import assert_all_pages_free, random_prompts
from tests.helpers.fake_kernels import fake_package
from tests.helpers.llada2_checkpoints import sharp_llada2_checkpoint
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")

Kind = dict[str, Any]
CACHES: list[Kind] = [
    {"cache": "dual"},
    {"cache": "dual", "cache_args": {"refresh_every": 4}, "remasking": "low_confidence"},
    {"cache": "prefix", "remasking": "threshold"},
    {"cache": "vicinity", "cache_args": {"look_back": 3, "look_ahead": 5}},
    {"cache": "delayed", "remasking": "threshold"},
]
POLICIES: list[Kind] = [
    {"remasking": "starr", "remasking_args": {"patience": 2, "revoke_below": 0.3}},
    {"remasking": "low_confidence", "remasking_args": {"tokens_per_step": 3}},
    {"remasking": "threshold", "temperature": 0.7, "seed": 5},
    {"remasking": "klass"},
    {"remasking": "token_edit"},
    {"remasking": "eb_sampler"},
]
EAGER: list[Kind] = [
    {"cache": "none"},
    {"cache": "dllm"},
    {"cache": "dual", "cache_args": {"suffix_window": 8}, "max_tokens": 32},
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
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


def make_engine(folder: Path, recorder: RerunRecorder | None, **options: Any) -> Engine:
    settings: dict[str, Any] = {
        "page_size": 16,
        "num_pages": 60,
        "canvas_cache": 0,
        "max_num_requests": 8,
        "attention_backend": "sdpa",
    }
    config = EngineConfig(model=str(folder), device="cpu", dtype="float32", **(settings | options))
    return Engine(config, options=EngineOptions(recorder=recorder))


def run(engine: Engine, kinds: Sequence[Kind]) -> dict[str, tuple[Any, ...]]:
    """Requests of other lengths that come two steps apart; the third is aborted."""
    prompts = random_prompts(len(kinds), seed=3)
    waiting = []
    for n, (prompt, kind) in enumerate(zip(prompts, kinds, strict=True)):
        fields: Kind = {"max_tokens": 16 + 3 * (n % 4), "block_length": 8, "ignore_eos": n % 3 > 0}
        waiting.append((str(n), prompt, SamplingParams(**(fields | kind))))
    found: dict[str, tuple[Any, ...]] = {}
    step = 0
    while waiting or engine.has_unfinished:
        if waiting and step % 2 == 0:
            name, prompt, params = waiting.pop(0)
            engine.add_request(prompt, params, name)
        if step == 9:
            engine.abort("2")
        for output in engine.step():
            if isinstance(output, RequestOutput):
                assert output.error is None
                found[output.request_id] = (output.token_ids, output.nfe, output.computed_rows)
        step += 1
    assert_all_pages_free(engine)
    return found


@pytest.mark.parametrize("kinds", [CACHES, POLICIES], ids=["caches", "policies"])
def test_a_bidirectional_batch_that_grows_and_shrinks_gives_the_same_tokens(
    bidirectional: Path, kinds: list[Kind]
) -> None:
    plain = make_engine(bidirectional, None)
    assert plain.executor.graphs is None
    engine = make_engine(bidirectional, RerunRecorder())
    assert run(engine, kinds) == run(plain, kinds)
    graphs = engine.executor.graphs
    assert graphs is not None
    assert graphs.replays.total() > 5
    assert len(graphs.replays) > 3
    assert {bucket.num_sequences for bucket in graphs.replays} > {1, 2}


@pytest.mark.parametrize("kinds", [[{}] * 4, POLICIES], ids=["default", "policies"])
def test_block_causal_commits_are_two_sequences_each(block_causal: Path, kinds: list[Kind]) -> None:
    engine = make_engine(block_causal, RerunRecorder())
    assert run(engine, kinds) == run(make_engine(block_causal, None), kinds)
    graphs = engine.executor.graphs
    assert graphs is not None
    assert graphs.replays.total() > 5
    assert set(graphs.eager) == {"a request computes its prompt"}


def test_what_cannot_be_recorded_runs_eagerly_and_says_why(bidirectional: Path) -> None:
    engine = make_engine(bidirectional, RerunRecorder())
    assert run(engine, EAGER) == run(make_engine(bidirectional, None), EAGER)
    graphs = engine.executor.graphs
    assert graphs is not None
    for kind in EAGER:
        run(engine, [kind])
    assert {
        "a request keeps no pages",
        "a request keeps what layers add to its rows",
        "a request reads rows with gaps",
        "a request has shadow rows",
        "a request refreshes its cache",
    } <= set(graphs.eager)


def test_experts_route_padding_rows_without_harm(tmp_path: Path) -> None:
    folder = sharp_llada2_checkpoint(tmp_path)
    engine = make_engine(folder, RerunRecorder(), page_size=None)
    assert run(engine, POLICIES[:3]) == run(make_engine(folder, None, page_size=None), POLICIES[:3])
    assert engine.executor.graphs is not None
    assert engine.executor.graphs.replays.total() > 5


@pytest.mark.parametrize("page_size", [16, 256])
@pytest.mark.parametrize("backend", KERNELS)
def test_kernels_find_all_that_changes_on_the_device(
    bidirectional: Path, backend: str, page_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_package(backend, monkeypatch)
    monkeypatch.setattr(requirements, "gpu_reasons", lambda *_: [])
    engine = make_engine(
        bidirectional, RerunRecorder(), attention_backend=backend, page_size=page_size
    )
    expected = run(make_engine(bidirectional, None), CACHES)
    calls.clear()
    assert run(engine, CACHES) == expected
    graphs = engine.executor.graphs
    assert graphs is not None
    assert graphs.replays.total() > 5
    reads_in_place = backend != "xformers" and (page_size == 256 or backend == "flashinfer")
    assert graphs.rule.copies_table != reads_in_place
    if not reads_in_place:
        assert all(bucket.num_pages < 5 for bucket in graphs.replays) or page_size == 16


def test_buckets_and_the_switch_are_settings(bidirectional: Path) -> None:
    engine = make_engine(bidirectional, RerunRecorder(), graph_buckets=(3,))
    kinds: list[Kind] = [{"cache": "dual"}] * 5
    assert run(engine, kinds) == run(make_engine(bidirectional, None), kinds)
    assert engine.executor.graphs is not None
    assert {bucket.num_sequences for bucket in engine.executor.graphs.replays} == {3}
    assert engine.executor.graphs.eager["more than 3 sequences"] > 0
    assert make_engine(bidirectional, RerunRecorder(), cuda_graphs="off").executor.graphs is None


class BrokenRecorder(RerunRecorder):
    """Whose replays do nothing, or which cannot record."""

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    def __call__(self, run: Run) -> Run:
        if self.raises:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: None


@pytest.mark.parametrize(
    ("raises", "problem"), [(True, "not permitted when stream is capturing"), (False, "is off by")]
)
def test_a_recording_that_fails_is_given_up_with_a_warning(
    bidirectional: Path, raises: bool, problem: str
) -> None:
    engine = make_engine(bidirectional, BrokenRecorder(raises=raises))
    with pytest.warns(UserWarning, match=f"CUDA graphs are given up.*{problem}"):
        found = run(engine, CACHES[:3])
    assert found == run(make_engine(bidirectional, None), CACHES[:3])
    assert engine.executor.graphs is not None
    assert not engine.executor.graphs.replays


def test_recordings_made_at_the_start_serve_the_same_steps(
    bidirectional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[Kind] = [
        {"cache": "dual", "remasking": "threshold", "block_length": 32, "max_tokens": 64}
    ] * 6
    fake_package("flash_attn", monkeypatch)
    monkeypatch.setattr(requirements, "gpu_reasons", lambda *_: [])
    made: list[Run] = []

    class Counted(RerunRecorder):
        def __call__(self, run: Run) -> Run:
            made.append(run)
            return run

    engine = make_engine(
        bidirectional, Counted(), record_at_start=True, attention_backend="flash_attn",
        page_size=256, graph_buckets=(1, 2, 4, 8),
    )  # fmt: skip
    assert len(made) == 4
    assert run(engine, kinds) == run(make_engine(bidirectional, None), kinds)
    assert len(made) == 4
    assert engine.executor.graphs is not None
    assert engine.executor.graphs.replays.total() > 10


def test_tables_that_are_copied_have_too_many_widths_to_record_at_the_start(
    bidirectional: Path,
) -> None:
    engine = make_engine(bidirectional, RerunRecorder(), record_at_start=True)
    assert engine.executor.graphs is not None
    assert engine.executor.graphs.rule.usual(32) == []
    assert make_engine(bidirectional, None, record_at_start=True).executor.graphs is None
