"""Loads of a benchmark, and running them: who comes when, and what is noted."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from starr_engine import LLM, SamplingParams
from starr_engine.bench.load import Load, LoadRequest, poisson_arrivals, random_prompts
from starr_engine.bench.measure import beginning
from starr_engine.bench.report import load_report, percentiles
from starr_engine.bench.run import RequestTimes, run_load
from starr_engine.engine.engine import Engine
from starr_engine.errors import ConfigError, RequestError
from tests.helpers.fake_clock import FakeClock
from tests.helpers.word_models import write_word_model

PARAMS = SamplingParams(
    max_tokens=8, block_length=4, remasking="low_confidence", cache="dual", ignore_eos=True
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_word_model(tmp_path_factory.mktemp("model"))
    return LLM(str(folder), max_num_requests=4, canvas_cache=0)


def requests(count: int, **fields: object) -> tuple[LoadRequest, ...]:
    return tuple(LoadRequest(token_ids=(5 + at, 7), params=PARAMS, **fields) for at in range(count))


def test_random_prompts_keep_to_lengths_ids_and_seed() -> None:
    def draw(seed: int, count: int = 50) -> list[tuple[int, ...]]:
        return random_prompts(count, (3, 9), vocab_size=8, excluded_ids=(0, 5), seed=seed)

    prompts = draw(1)
    assert {len(prompt) for prompt in prompts} == set(range(3, 10))
    assert {token for prompt in prompts for token in prompt} == {1, 2, 3, 4, 6, 7}
    assert draw(1) == prompts
    assert draw(2) != prompts
    assert draw(1, 7) == prompts[:7]


@pytest.mark.parametrize(
    ("lengths", "excluded", "message"),
    [((0, 3), (), "at least 1"), ((4, 3), (), "least first"), ((1, 2), (0, 1), "no token is left")],
)
def test_prompts_that_cannot_be_drawn_are_refused(lengths, excluded, message) -> None:
    with pytest.raises(ConfigError, match=message):
        random_prompts(1, lengths, vocab_size=2, excluded_ids=excluded, seed=0)


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    due = poisson_arrivals(20_000, rate=4.0, seed=3)
    gaps = [due[0], *(later - earlier for earlier, later in itertools.pairwise(due))]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.03)
    # Exponential: as long as its own spread.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, 0.05)
    assert poisson_arrivals(3, 8.0, 3) == pytest.approx([each / 2 for each in due[:3]])
    with pytest.raises(ConfigError, match="above 0"):
        poisson_arrivals(3, 0.0, 3)


def test_a_load_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one prompt"):
        Load(requests=())
    with pytest.raises(ConfigError, match="concurrency must be at least 1"):
        Load(requests=requests(1), concurrency=0)
    first, second = requests(2, due_s=1.0)
    with pytest.raises(ConfigError, match="in the order"):
        Load(requests=(first, replace(second, due_s=0.5)))


def unfinished_at_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    step = engine.step

    def spied() -> list:
        seen.append(engine.num_running + engine.num_waiting)
        return step()

    monkeypatch.setattr(engine, "step", spied)
    return seen


def test_a_closed_loop_keeps_its_number_of_requests_until_none_are_left(llm, monkeypatch) -> None:
    seen = unfinished_at_steps(llm.engine, monkeypatch)
    result = run_load(llm.engine, Load(requests=requests(5), concurrency=2))
    assert seen == [2] * 16 + [1] * 8
    assert result.num_steps == 24
    assert len(result.requests) == 5


def test_an_open_loop_adds_what_is_due_and_sleeps_only_when_it_is_idle(llm, monkeypatch) -> None:
    clock = FakeClock()
    seen = unfinished_at_steps(llm.engine, monkeypatch)
    due = (0.0, 0.0, 10.0, 10.0, 10.0, 12.0)
    timed = [replace(each, due_s=at) for each, at in zip(requests(6), due, strict=True)]
    run_load(llm.engine, Load(requests=tuple(timed)), clock=clock, sleep=clock.sleep)
    assert clock.slept == [10.0, 2.0]
    assert seen == [2] * 8 + [3] * 8 + [1] * 8


def test_latency_counts_from_when_a_request_was_due(llm) -> None:
    clock = FakeClock(tick=0.5)
    load = Load(requests=requests(2, due_s=0.25))
    result = run_load(llm.engine, load, clock=clock, sleep=clock.sleep)
    for each in result.requests:
        assert each.due_s == 0.25
        assert each.block_gaps_s[0] == each.blocks_s[0] - 0.25
        assert sum(each.block_gaps_s) == pytest.approx(each.blocks_s[-1] - 0.25)
        assert each.end_s == each.blocks_s[-1]


def test_the_outputs_are_those_of_the_engine_alone(llm) -> None:
    prompts = [{"prompt_token_ids": each.token_ids} for each in requests(5)]
    expected = [output.token_ids for output in llm.generate(prompts, PARAMS)]
    result = run_load(llm.engine, Load(requests=requests(5), concurrency=3))
    assert [each.output.token_ids for each in result.requests] == expected


def test_the_report_adds_up_what_requests_did(llm) -> None:
    report = load_report(run_load(llm.engine, Load(requests=requests(6), concurrency=3)))
    assert (report["requests"], report["tokens"], report["nfe"], report["steps"]) == (6, 48, 48, 16)
    assert (report["tpf"], report["mean_batch"], report["refreshes"]) == (1.0, 3.0, 12)
    # Two refreshes of the canvas, and the blocks' other steps.
    assert report["computed_rows"] == 6 * (2 * 10 + 6 * 4)
    assert report["tokens_per_s"] == pytest.approx(48 / report["seconds"])
    assert set(report["latency"]) == {"first_block", "per_block", "request"}


def test_the_beginning_of_a_load_has_its_batch_and_few_tokens() -> None:
    long = tuple(replace(each, params=replace(PARAMS, max_tokens=256)) for each in requests(40))
    short = beginning(Load(requests=(*requests(1), *long), concurrency=3))
    assert [each.params.max_tokens for each in short.requests] == [8, 64, 64]
    assert short.concurrency == 3
    assert len(beginning(Load(requests=long)).requests) == 32


def test_percentiles_of_known_samples() -> None:
    found = percentiles([float(at) for at in range(101)])
    assert found == {"mean_s": 50.0, "p50_s": 50.0, "p90_s": 90.0, "p99_s": 99.0, "max_s": 100.0}


def test_a_request_that_cannot_run_ends_the_load_and_leaves_the_engine_empty(llm) -> None:
    bad = LoadRequest(token_ids=(3,), params=PARAMS)  # the mask token
    with pytest.raises(RequestError, match="mask token"):
        run_load(llm.engine, Load(requests=(*requests(2), bad), concurrency=3))
    assert not llm.engine.has_unfinished


def test_an_engine_with_requests_is_refused(llm) -> None:
    name = llm.engine.add_request([5], PARAMS)
    with pytest.raises(RequestError, match="still has requests"):
        run_load(llm.engine, Load(requests=requests(1)))
    llm.engine.abort(name)


def test_the_first_block_counts_from_arrival_and_others_from_the_one_before() -> None:
    times = RequestTimes(due_s=1.0, blocks_s=[3.0, 3.5, 7.0])
    assert times.block_gaps_s == [2.0, 0.5, 3.5]
