"""What the largest step is, that it can be run, and what it leaves for pages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from starr_engine import LLM
from starr_engine.config import EngineConfig
from starr_engine.engine.graphs.buckets import MAX_COPIED_ROWS, MAX_ROWS
from starr_engine.engine.memory import resolve_kv_memory
from starr_engine.engine.profiling import (
    WorstStep,
    graph_reserve,
    graph_step,
    held_bytes,
    left_for_pages,
    run_step,
    worst_step,
)
from starr_engine.errors import CapacityError
from starr_engine.models.loading.loader import build_model
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.engines import make_llm
from tests.helpers.llada2_checkpoints import sharp_llada2_checkpoint


def config(**changes: int | str) -> EngineConfig:
    return EngineConfig.from_options(**changes)


@pytest.mark.parametrize(
    ("changes", "lens", "scored"),
    [
        ({"max_num_requests": 2, "max_model_len": 100}, (100, 100), 64),
        ({"max_num_requests": 9, "max_num_batched_tokens": 250, "max_model_len": 100},
         (100, 100, 50), 250),
        ({"max_num_requests": 1, "max_num_batched_tokens": 20, "max_model_len": 100}, (20,), 20),
    ],
)  # fmt: skip
def test_the_largest_step_fills_the_budget_with_the_longest_requests(
    changes: dict[str, int | str], lens: tuple[int, ...], scored: int
) -> None:
    spec = build_model(resolve_model("tiny-llada")).spec
    assert worst_step(config(**changes), spec) == WorstStep(request_lens=lens, num_scored=scored)
    assert graph_step(config(**changes), spec).num_rows == min(MAX_ROWS, sum(lens))


def test_what_recordings_keep_is_reserved() -> None:
    spec = build_model(resolve_model("tiny-llada")).spec
    room = MAX_ROWS * spec.hidden_size * 2
    row = 2 * spec.num_kv_heads * spec.head_dim * 2
    for copies, copied in ((False, 0), (True, MAX_COPIED_ROWS * row)):
        found = graph_reserve(config(), spec, torch.bfloat16, step_bytes=1000, copies=copies)
        assert found == 1000 + copied + room
    off = config(cuda_graphs="off")
    assert graph_reserve(off, spec, torch.bfloat16, step_bytes=1000, copies=True) == 0


def test_the_logits_of_a_step_are_held_while_the_next_one_runs() -> None:
    spec = build_model(resolve_model("tiny-llada")).spec
    rows = worst_step(config(), spec).num_scored
    assert held_bytes(config(), spec, torch.bfloat16) == rows * spec.vocab_size * 2
    assert held_bytes(config(launch_ahead="off"), spec, torch.bfloat16) == 0


def test_pages_get_what_a_step_and_recordings_leave() -> None:
    assert left_for_pages(1000, step_bytes=300, graph_bytes=200) == 500
    with pytest.raises(
        CapacityError, match=r"largest step takes 3\.00 GB .* max_num_batched_tokens"
    ):
        left_for_pages(4 * 10**9, step_bytes=3 * 10**9, graph_bytes=10**9)


def test_auto_is_a_size_on_a_cpu_and_a_share_on_cuda() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_kv_memory("auto", cpu) == "1GiB"
    assert resolve_kv_memory("auto", cuda) == 0.95
    assert resolve_kv_memory("auto", cuda, is_split=True) == 0.8
    assert resolve_kv_memory("2GB", cuda) == "2GB"


def test_a_step_of_made_up_rows_can_be_run(tmp_path: Path) -> None:
    for llm in (LLM("tiny-sdar", device="cpu"), make_llm(sharp_llada2_checkpoint(tmp_path))):
        step = WorstStep(request_lens=(20, 20, 7), num_scored=5)
        executor = llm.engine.executor
        logits = run_step(executor.model, executor.backends, step)
        assert logits is not None
        assert logits.shape == (5, llm.engine.spec.vocab_size)
        assert logits.isfinite().all()
        assert (
            run_step(executor.model, executor.backends, graph_step(config(), llm.engine.spec))
            is None
        )
