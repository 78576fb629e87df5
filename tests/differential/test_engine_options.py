"""What an engine does faster in one way than in another gives the same tokens in both."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from starr_engine import BlockOutput, ProvisionalOutput, RequestOutput, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.decoding import decoder as decoding
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.decoding.group import Doubts
from starr_engine.decoding.stacking import StackedRow, cut, join
from starr_engine.decoding.transfer import pack, unpack
from starr_engine.engine.engine import Engine
from starr_engine.engine.options import EngineOptions
from starr_engine.engine.thread import EngineThread, Event
from starr_engine.errors import EngineDeadError
from tests.helpers.engines import random_prompts, sharp_checkpoint

NEEDS: dict[str, dict[str, Any]] = {
    "starr": {"revoke_below": 0.3},
    "low_confidence": {"tokens_per_step": 3},
}
POLICIES = [name for name in REMASKING_POLICIES.names() if name != "entropy_bound"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


def make_engine(folder: Path, **options: Any) -> Engine:
    config = EngineConfig(
        model=str(folder), device="cpu", dtype="float32", canvas_cache=0, max_num_requests=6
    )
    return Engine(config, options=EngineOptions(**options))


def run(engine: Engine, names: list[str]) -> dict[str, tuple[Any, ...]]:
    """Four requests of each policy that join and leave at different steps."""
    found: dict[str, tuple[Any, ...]] = {}
    waiting = [(name, n) for n in range(4) for name in names]
    prompts = random_prompts(len(waiting), seed=2)
    while waiting or engine.has_unfinished:
        if waiting:
            name, n = waiting.pop()
            params = SamplingParams(
                max_tokens=8 + 5 * n, block_length=8, remasking=name,
                remasking_args=NEEDS.get(name, {}), temperature=(0.0, 0.6)[n == 1], seed=n,
                ignore_eos=n != 2, eos_last=n == 3,
            )  # fmt: skip
            engine.add_request(prompts.pop(), params, f"{name} {n}")
        for output in engine.step():
            if isinstance(output, RequestOutput):
                assert output.error is None
                found[output.request_id] = (
                    output.token_ids, output.nfe, output.num_edited, output.mean_log_confidence,
                )  # fmt: skip
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_states_that_stay_together_decide_as_states_that_are_cut(folder: Path, name: str) -> None:
    joined: list[int] = []

    def spy(rows: Any) -> Any:
        state = join(rows)
        joined.append(sum(row.stack is state for row in rows if isinstance(row, StackedRow)))
        return state

    with mock.patch("starr_engine.decoding.group.join", spy):
        found = run(make_engine(folder), [name])
    assert found == run(make_engine(folder, stacked_states=False), [name])
    if REMASKING_POLICIES.create(name, NEEDS.get(name, {})).init_state(1, 8, torch.device("cpu")):
        assert any(count > 1 for count in joined)


def test_the_host_waits_once_and_decides_as_if_it_waited_at_every_check(folder: Path) -> None:
    names = ["starr", "wino", "t2m"]
    slow: list[int] = []

    def slowly(*args: Any) -> Any:
        slow.append(1)
        return decide_slowly(*args)

    decide_slowly = decoding._decide_slowly
    with mock.patch.object(decoding, "_decide_slowly", slowly):
        found = run(make_engine(folder), names)
        assert not slow
        with mock.patch.object(Doubts, "any", return_value=torch.tensor(True)):
            assert run(make_engine(folder), names) == found
        assert slow


@pytest.mark.parametrize(
    "options",
    [{"fused_statistics": False}, {"head_on_scored_rows": False}, {"compile_backend": "eager"}],
    ids=str,
)
def test_ablations_change_no_token(folder: Path, options: dict[str, Any]) -> None:
    names = ["starr", "threshold", "wino"]
    plain = run(make_engine(folder), names)
    found = run(make_engine(folder, **options), names)
    assert {name: values[:2] for name, values in found.items()} == {
        name: values[:2] for name, values in plain.items()
    }


def test_a_group_that_stays_together_costs_no_cutting_and_joining(folder: Path) -> None:
    def count(batch: int, *, stacked: bool) -> int:
        """Tensor operations of one decision, inside a block."""
        engine = make_engine(folder, stacked_states=stacked)
        for prompt in random_prompts(batch):
            engine.add_request(
                prompt,
                SamplingParams(
                    max_tokens=8, block_length=8, ignore_eos=True,
                    remasking_args={"c_fast": 2.0, "c_slow": 2.0},
                ),
            )  # fmt: skip
        engine.step()
        engine.step()
        step = engine.batcher.check(engine.scheduler.schedule())
        known = engine.decoder.prepare(step)
        batch = engine.executor.upload(engine.batcher.lay_out(step, known.facts))
        logits = engine.executor.forward(batch)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            engine.decoder.wait(engine.decoder.decide(known, batch.facts, logits))
        return sum(event.count for event in found.key_averages() if "::" in event.key)

    assert count(6, stacked=True) == count(1, stacked=True)
    assert count(6, stacked=False) > count(6, stacked=True) + 20


def test_rows_of_a_stack_are_joined_by_the_piece() -> None:
    state = {"a": torch.arange(4), "b": torch.arange(8).view(4, 2)}
    rows = cut(state, 4, stacked=True)
    assert join(rows) is state
    other = cut({"a": torch.tensor([9]), "b": torch.tensor([[9, 9]])}, 1, stacked=False)
    cats: list[int] = []

    def cat(pieces: list[Tensor]) -> Tensor:
        cats.append(len(pieces))
        return real(pieces)

    real = torch.cat
    with mock.patch("torch.cat", cat):
        found = join([rows[0], rows[1], *other, rows[3]])
    assert found["a"].tolist() == [0, 1, 9, 3]
    assert found["b"].tolist() == [[0, 1], [2, 3], [9, 9], [6, 7]]
    assert cats == [3, 3]
    assert join([rows[1], rows[0]])["a"].tolist() == [1, 0]
    assert join([rows[2]])["b"].tolist() == [[4, 5]]


def test_what_goes_down_in_one_copy_comes_out_as_it_was() -> None:
    tensors = {
        "bools": torch.tensor([[True, False, True]]),
        "ids": torch.tensor([[1 << 40, -1, 3]]),
        "truth": torch.tensor(True),
        "numbers": torch.tensor([[0.5, -2.0], [float("inf"), 0.0]]).t(),
        "nothing": torch.empty(0, 3, dtype=torch.int64),
    }
    arrays = unpack(pack(tensors), tensors)
    for name, tensor in tensors.items():
        assert arrays[name].shape == tuple(tensor.shape)
        assert arrays[name].tolist() == tensor.tolist()


def events_of(folder: Path, *, overlap: bool) -> dict[str, list[tuple[Any, ...]]]:
    """What each of seven requests is told, in order; the last comes late, one is aborted."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    ended = {str(n): threading.Event() for n in range(7)}
    prompts = random_prompts(7, seed=4)
    thread = EngineThread(make_engine(folder, overlap=overlap))

    def note(event: Event | EngineDeadError) -> None:
        if isinstance(event, ProvisionalOutput):
            what: tuple[Any, ...] = ("provisional", event.num_forwards, event.token_ids)
        elif isinstance(event, BlockOutput):
            what = ("block", event.block_index, event.token_ids, event.num_forwards)
        else:
            assert isinstance(event, RequestOutput)
            what = ("end", event.token_ids, event.nfe, event.finish_reason)
            ended[event.request_id].set()
        found.setdefault(event.request_id, []).append(what)

    def add(engine: Engine, n: int) -> None:
        params = SamplingParams(
            max_tokens=8 + 8 * (n % 3), block_length=8, ignore_eos=n % 2 == 0,
            remasking="low_confidence", remasking_args={"tokens_per_step": 3},
        )  # fmt: skip
        engine.add_request(prompts[n], params, str(n))
        thread.subscribe(str(n), note, provisional=n != 3)

    def add_all(engine: Engine) -> None:
        for n in range(6):
            add(engine, n)

    try:
        thread.call(add_all).result(60)
        thread.call(lambda engine: add(engine, 6)).result(60)
        assert all(event.wait(60) for event in ended.values())
    finally:
        thread.close()
    return found


def test_a_thread_that_tells_late_tells_the_same(folder: Path) -> None:
    late, at_once = (events_of(folder, overlap=overlap) for overlap in (True, False))
    assert late == at_once
    assert all(events[-1][0] == "end" for events in late.values())
    assert {event[0] for events in late.values() for event in events} == {
        "provisional", "block", "end",
    }  # fmt: skip


def test_news_are_told_while_the_next_step_runs_and_before_calls(folder: Path) -> None:
    engine = make_engine(folder, overlap=True)
    log: list[str] = []
    launch, finish = engine.launch, engine.finish

    def launched() -> None:
        launch()
        log.append("launch")

    def finished() -> Any:
        changes = finish()
        log.append(f"finish {len(changes)}")
        return changes

    ended = threading.Event()

    def note(event: Event | EngineDeadError) -> None:
        log.append(type(event).__name__)
        if isinstance(event, RequestOutput):
            ended.set()

    def add(engine: Engine) -> None:
        args = {"tokens_per_step": 8}
        params = SamplingParams(
            max_tokens=16, block_length=8, ignore_eos=True, remasking="low_confidence",
            remasking_args=args,
        )  # fmt: skip
        engine.add_request([5, 6], params, "a")
        thread.subscribe("a", note, provisional=False)

    with mock.patch.multiple(engine, launch=launched, finish=finished):
        thread = EngineThread(engine)
        thread.call(add).result(60)
        assert ended.wait(60)
        thread.close()
    assert log == [
        "launch", "finish 1", "launch", "BlockOutput", "finish 1", "BlockOutput", "RequestOutput",
    ]  # fmt: skip


def test_an_abort_leaves_the_others_the_step_that_was_launched(folder: Path) -> None:
    engine = make_engine(folder)
    alone = run(make_engine(folder), ["threshold"])
    params = SamplingParams(
        max_tokens=13, block_length=8, remasking="threshold", temperature=0.6, seed=1,
        ignore_eos=True,
    )  # fmt: skip
    prompts = random_prompts(4, seed=2)
    engine.add_request(prompts[1], params, "threshold 1")
    engine.add_request(prompts[0], params, "other")
    engine.step()
    engine.launch()
    steps, lost = engine.stats().num_steps, engine.stats().num_lost_rows
    assert engine.abort("other") is not None
    engine.outputs.collect(engine.finish())
    assert engine.stats().num_steps == steps + 1
    assert engine.stats().num_lost_rows > lost
    while engine.has_unfinished:
        for output in engine.step():
            if isinstance(output, RequestOutput):
                assert output.token_ids == alone["threshold 1"][0]
    engine.page_pool.check_invariants()
