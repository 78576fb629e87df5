"""The profile of steps: phases, counted work, the Chrome trace, shares of a roofline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from starr_engine import LLM, SamplingParams
from starr_engine.bench.busy import covered
from starr_engine.bench.chrome_trace import trace_events, write_chrome_trace
from starr_engine.bench.peaks import Peaks
from starr_engine.bench.profiler import PHASES, StepProfiler, phase_seconds
from starr_engine.bench.report import profile_report
from starr_engine.bench.work import Mixture, Work
from starr_engine.errors import ConfigError, RequestError
from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.fake_clock import FakeClock
from tests.helpers.sdar_checkpoints import sdar_config, write_sdar_checkpoint
from tests.helpers.word_models import write_word_model

PROMPTS = [{"prompt_token_ids": [5, 6, 7, 8, 9]}, {"prompt_token_ids": [9, 8]}]


def params(cache: str, **fields: object) -> SamplingParams:
    return SamplingParams(
        max_tokens=8,
        block_length=4,
        remasking="low_confidence",
        cache=cache,
        ignore_eos=True,
        **fields,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    sdar = sdar_config(block_size=4)
    return {
        "llada": write_word_model(folder / "llada"),
        "sdar": write_sdar_checkpoint(folder / "sdar", sdar),
    }


@pytest.fixture
def llm(folders: dict[str, Path]) -> LLM:
    return LLM(str(folders["llada"]), attention_backend="reference", canvas_cache=0)


def test_every_phase_of_every_step_is_timed_in_order(llm) -> None:
    profiler = StepProfiler(FakeClock(tick=1.0))
    with profiler.watch(llm.engine):
        llm.generate(PROMPTS, params("dual"))
    assert len(profiler.steps) == 8
    of_step = ["schedule", *["build"] * 4, "logits", "forward", *["decide"] * 2, "apply", "collect"]
    assert [span.phase for span in profiler.spans] == of_step * 8
    assert [span.step for span in profiler.spans] == [at for at in range(8) for _ in of_step]
    # A tick to each reading: two in a phase, and those of the head inside the forward. Plans are
    # checked, rows prepared, laid out and uploaded; decisions queued first, and then waited for.
    ticks = {"build": 4, "forward": 2, "decide": 2}
    assert phase_seconds(profiler.spans) == {phase: 8.0 * ticks.get(phase, 1) for phase in PHASES}
    assert all(step.seconds == 21.0 for step in profiler.steps)
    assert [step.num_requests for step in profiler.steps] == [2] * 8
    assert [step.has_refresh for step in profiler.steps] == [at % 4 == 0 for at in range(8)]
    assert [step.num_rows for step in profiler.steps] == [23, 8, 8, 8] * 2
    assert [step.num_scored for step in profiler.steps] == [8, 6, 4, 2] * 2


def test_watching_changes_no_output_and_leaves_nothing_behind(llm) -> None:
    engine = llm.engine
    parts = [engine.scheduler, engine.batcher, engine.executor, engine.executor.model]
    parts += [engine.decoder, engine.progress, engine.outputs]
    before = [set(vars(part)) for part in parts]
    expected = [output.token_ids for output in llm.generate(PROMPTS, params("dual"))]
    with StepProfiler().watch(engine):
        outputs = llm.generate(PROMPTS, params("dual"))
    assert [output.token_ids for output in outputs] == expected
    assert [set(vars(part)) for part in parts] == before
    with pytest.raises(RequestError, match="empty"), StepProfiler().watch(engine):
        llm.generate({"prompt_token_ids": []})
    assert [set(vars(part)) for part in parts] == before


@pytest.mark.parametrize("cache", ["none", "dual", "prefix"])
def test_counted_flops_are_those_that_torch_counts(llm, cache) -> None:
    profiler = StepProfiler()
    with profiler.watch(llm.engine), FlopCounterMode(display=False) as torch_counts:
        llm.generate(PROMPTS, params(cache))
    counted = sum((step.work for step in profiler.steps), Work())
    assert counted.flops == torch_counts.get_total_flops()


def test_counted_flops_of_a_block_causal_mask_are_those_of_rows_seen(folders) -> None:
    """The reference multiplies masked pairs too; everything else is what torch counts."""
    llm = LLM(str(folders["sdar"]), attention_backend="reference")
    spec = llm.engine.spec
    profiler = StepProfiler()
    with profiler.watch(llm.engine), FlopCounterMode(display=False) as torch_counts:
        llm.generate({"prompt_token_ids": [5] * 8}, params("block_causal"))
    counted = sum((step.work for step in profiler.steps), Work())
    # The first step has rows 0 to 11, of which 0 to 3 do not see 8 others, nor 4 to 7 the last 4;
    # the ninth commits the block of rows 8 to 11 beside the next: 4 rows do not see 4.
    masked = 4 * 8 + 4 * 4 + 4 * 4
    per_pair = 4 * spec.num_layers * spec.num_heads * spec.head_dim
    assert torch_counts.get_total_flops() - counted.flops == masked * per_pair


def test_probes_are_work_too(llm) -> None:
    profiler = StepProfiler()
    with profiler.watch(llm.engine), FlopCounterMode(display=False) as torch_counts:
        llm.generate(PROMPTS, params("dual", cache_probe_rate=1.0))
    counted = sum((step.work for step in profiler.steps), Work())
    assert counted.flops == torch_counts.get_total_flops()


def test_counted_bytes_of_a_step_by_hand(llm) -> None:
    engine, spec = llm.engine, llm.engine.spec
    profiler = StepProfiler()
    with profiler.watch(engine):
        llm.generate(PROMPTS[0], params("dual"))
    table = spec.vocab_size * spec.hidden_size
    num_tables = sum(each.numel() == table for each in engine.executor.model.parameters())
    assert num_tables == 2
    kv = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    values = engine.num_parameters - table  # all but the embedding, of which rows are read
    values += kv * (4 + 13)  # four rows written, thirteen read
    values += 4 * spec.hidden_size
    values += 2 * 3 * spec.vocab_size  # three masks are left at the second step
    assert profiler.steps[1].work.num_bytes == 4 * values


def test_a_mixture_reads_the_experts_that_rows_choose() -> None:
    mixture = Mixture(num_bytes=800, idle_share=0.75)
    assert mixture.bytes_read(1) == 200
    assert mixture.bytes_read(2) == 350
    assert mixture.bytes_read(1000) == pytest.approx(800)


def test_a_tied_head_is_read_once_and_multiplied_like_any_other(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, llada_config(weight_tying=True))
    llm = LLM(str(folder), attention_backend="reference")
    engine, spec = llm.engine, llm.engine.spec
    profiler = StepProfiler()
    with profiler.watch(engine), FlopCounterMode(display=False) as torch_counts:
        llm.generate(PROMPTS[0], params("none"))
    counted = sum((step.work for step in profiler.steps), Work())
    assert counted.flops == torch_counts.get_total_flops()
    kv = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    values = engine.num_parameters + 13 * (kv + spec.hidden_size) + 2 * 4 * spec.vocab_size
    assert profiler.steps[0].work.num_bytes == 4 * values


def test_the_roofline_is_the_slower_of_memory_and_arithmetic() -> None:
    peaks = Peaks(bytes_per_s=10.0, flops_per_s=100.0)
    assert peaks.least_seconds(Work(flops=100.0, num_bytes=5.0)) == 1.0
    assert peaks.least_seconds(Work(flops=100.0, num_bytes=20.0)) == 2.0
    with pytest.raises(ConfigError, match="bytes_per_s must be above 0"):
        Peaks(bytes_per_s=0.0, flops_per_s=1.0)


def test_shares_of_the_report_add_up(llm) -> None:
    profiler = StepProfiler(FakeClock(tick=1.0))
    with profiler.watch(llm.engine):
        llm.generate(PROMPTS, params("dual"))
    report = profile_report(profiler, Peaks(bytes_per_s=1e9, flops_per_s=1e9))
    assert sum(part["share"] for part in report["phases"].values()) == pytest.approx(1.0)
    assert report["phases"]["other"]["seconds"] == 8 * 9.0
    lines = report["roofline"]
    assert (lines["block_steps"]["steps"], lines["refresh_steps"]["steps"]) == (6, 2)
    assert lines["all"]["share"] >= max(
        lines["all"]["bandwidth_share"], lines["all"]["compute_share"]
    )
    flops = sum(step.work.flops for step in profiler.steps)
    assert lines["all"]["compute_share"] == pytest.approx(flops / (8 * 21.0) / 1e9)


def test_the_chrome_trace_nests_phases_in_steps(llm, tmp_path) -> None:
    profiler = StepProfiler(FakeClock(tick=0.001))
    with profiler.watch(llm.engine):
        llm.generate(PROMPTS, params("dual"))
    path = tmp_path / "trace.json"
    write_chrome_trace(path, profiler)
    events = json.loads(path.read_text())["traceEvents"]
    assert events == json.loads(json.dumps(trace_events(profiler)))
    whole = {event["args"]["step"]: event for event in events if event["name"].endswith(" step")}
    phases = [event for event in events if event["name"] in PHASES]
    assert len(whole) == 8
    assert len(phases) == 8 * 11
    assert whole[0]["ts"] == 0
    for event in phases:
        step = whole[event["args"]["step"]]
        assert step["ts"] <= event["ts"]
        assert event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 1e-6
    assert {event["ph"] for event in events} == {"M", "X", "C"}


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda at: (at[0], at[0] + at[1])),
        max_size=12,
    )
)
def test_covered_time_is_the_union_of_intervals(intervals: list[tuple[int, int]]) -> None:
    points = {point for start, stop in intervals for point in range(start, stop)}
    assert covered(intervals) == len(points)


@pytest.mark.gpu
def test_a_gpu_that_always_has_work_is_busy() -> None:
    from starr_engine.bench.busy import gpu_busy_share

    device = torch.device("cuda")
    matrix = torch.ones(4096, 4096, device=device)

    def run() -> None:
        for _ in range(20):
            torch.mm(matrix, matrix)

    assert 0.8 < gpu_busy_share(run, device) <= 1.0
