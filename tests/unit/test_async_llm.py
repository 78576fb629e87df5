"""Concurrent calls of one model: what each gets is what it would have got alone."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from starr_engine import (
    LLM,
    AsyncLLM,
    BlockOutput,
    EngineDeadError,
    FinishReason,
    ProvisionalOutput,
    RequestError,
    RequestOutput,
    SamplingParams,
)
from starr_engine.engine.engine import Engine

PROMPTS = ["Sort: 5 3 9", "2 + 3 =", "Sort: 8 1", "Q: 7 - 4?"]
SHORT = SamplingParams(max_tokens=32, block_length=16, remasking="threshold")
LONG = SamplingParams(max_tokens=64, block_length=16, ignore_eos=True, remasking="low_confidence")


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("tiny-llada", num_threads=1)


def run(test: Coroutine[Any, Any, None]) -> None:
    """One event loop for one test, with a bound on how long anything may wait."""
    asyncio.run(asyncio.wait_for(test, 60))


@asynccontextmanager
async def model(**options: Any) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM("tiny-llada", num_threads=1, **options) as llm:
        yield llm


async def nothing_left(llm: AsyncLLM) -> None:
    stats = await llm.stats()
    assert stats.num_running == 0
    assert stats.num_waiting == 0
    assert stats.num_free_pages == stats.num_pages


def test_concurrent_calls_get_what_each_gets_alone(llm: LLM) -> None:
    async def test() -> None:
        async with model() as served:
            outputs = await asyncio.gather(*(served.generate(text, SHORT) for text in PROMPTS))
            assert [output.token_ids for output in outputs] == expected
            await nothing_left(served)

    expected = [output.token_ids for output in llm.generate(PROMPTS, SHORT)]
    run(test())


def test_samples_gaps_and_chats_are_those_of_the_blocking_calls(llm: LLM) -> None:
    sampled = SamplingParams(max_tokens=16, block_length=16, temperature=0.8, n=3, seed=4)
    gap = {"prefix": "2 + ", "suffix": " = 5", "gap": [1, 2]}
    messages = [{"role": "user", "content": PROMPTS[0]}]

    async def test() -> None:
        async with model() as served:
            many, chosen, answer = await asyncio.gather(
                served.generate(PROMPTS[0], sampled),
                served.generate(gap, SamplingParams()),
                served.chat(messages, SHORT),
            )
            assert [each.token_ids for each in many.samples] == [
                each.token_ids for each in llm.generate(PROMPTS[0], sampled)[0].samples
            ]
            assert chosen.text == llm.generate(gap)[0].text
            assert chosen.gap_lengths_tried
            assert answer.token_ids == llm.chat(messages, SHORT)[0].token_ids

    run(test())


def test_blocks_come_before_the_output_and_join_to_it() -> None:
    async def test() -> None:
        async with model() as served:
            events = [event async for event in served.stream(PROMPTS[0], LONG)]
            *blocks, last = events
            assert isinstance(last, RequestOutput)
            assert len(blocks) == 4
            assert all(isinstance(block, BlockOutput) for block in blocks)
            joined = [token for block in blocks for token in block.token_ids]
            assert tuple(joined) == last.token_ids

    run(test())


def test_provisional_blocks_fill_up_towards_the_block_that_is_committed() -> None:
    async def test() -> None:
        async with model() as served:
            events = [event async for event in served.stream(PROMPTS[0], LONG, provisional=True)]
        seen = [event for event in events if isinstance(event, ProvisionalOutput)]
        blocks = {e.block_index: e.token_ids for e in events if isinstance(e, BlockOutput)}
        assert len(seen) > len(blocks)
        for event in seen:
            committed = blocks[event.block_index]
            for provisional, final in zip(event.token_ids, committed, strict=True):
                # This policy never takes a token back.
                assert provisional in (None, final)
        assert any(None in event.token_ids for event in seen)

    run(test())


def test_provisional_blocks_that_nobody_read_in_time_are_replaced() -> None:
    async def test() -> None:
        async with model() as served:
            stream = served.stream(PROMPTS[0], LONG, provisional=True)
            first = await anext(stream)
            assert isinstance(first, ProvisionalOutput)
            await served.generate(PROMPTS[1], LONG)  # all steps of the stream happen meanwhile
            rest = [event async for event in stream]
            kinds = [type(event) for event in rest]
            assert not any(
                one is two is ProvisionalOutput for one, two in itertools.pairwise(kinds)
            )
            assert kinds.count(BlockOutput) == 4

    run(test())


def test_a_cancelled_call_gives_its_pages_back_and_disturbs_no_other(llm: LLM) -> None:
    expected = llm.generate(PROMPTS[1], LONG)[0].token_ids

    async def test() -> None:
        async with model() as served:
            other = asyncio.create_task(served.generate(PROMPTS[1], LONG))
            doomed = asyncio.create_task(served.generate(PROMPTS[0], LONG))
            await asyncio.sleep(0.05)
            doomed.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doomed
            assert (await other).token_ids == expected
            await nothing_left(served)

    run(test())


def test_a_stream_that_is_left_early_ends_its_request() -> None:
    async def test() -> None:
        async with model() as served:
            stream = served.stream(PROMPTS[0], LONG)
            async for event in stream:
                assert isinstance(event, BlockOutput)
                break
            await stream.aclose()
            await nothing_left(served)

    run(test())


def test_an_aborted_request_gives_what_it_had_committed() -> None:
    async def test() -> None:
        async with model() as served:
            stream = served.stream(PROMPTS[0], LONG, request_id="mine")
            await anext(stream)
            served.abort("mine")
            rest = [event async for event in stream]
            assert isinstance(rest[-1], RequestOutput)
            assert rest[-1].finish_reason is FinishReason.ABORT
            assert 16 <= len(rest[-1].token_ids) < 64

    run(test())


def test_a_second_request_of_one_id_is_refused_and_the_first_goes_on() -> None:
    async def test() -> None:
        async with model() as served:
            first = asyncio.create_task(served.generate(PROMPTS[0], LONG, request_id="mine"))
            await asyncio.sleep(0.02)
            with pytest.raises(RequestError, match="in use"):
                await served.generate(PROMPTS[1], LONG, request_id="mine")
            assert len((await first).token_ids) == 64

    run(test())


@pytest.mark.parametrize("prompt", ["", {"prompt_token_ids": [10**9]}, {"unknown": 1}])
def test_a_prompt_that_cannot_run_fails_alone(prompt: Any) -> None:
    async def test() -> None:
        async with model() as served:
            with pytest.raises(RequestError):
                await served.generate(prompt, SHORT)
            assert (await served.generate(PROMPTS[0], LONG)).token_ids
            await nothing_left(served)

    run(test())


def test_calls_beyond_the_bound_wait_for_their_turn() -> None:
    async def test() -> None:
        async with model(max_unfinished=2) as served:
            tasks = [asyncio.create_task(served.generate(text, LONG)) for text in PROMPTS]
            most = 0
            while not all(task.done() for task in tasks):
                stats = await served.stats()
                most = max(most, stats.num_running + stats.num_waiting)
                await asyncio.sleep(0)
            assert most == 2
            assert len({task.result().request_id for task in tasks}) == 4

    run(test())


def test_an_idle_engine_makes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self: (steps.append(1), step(self))[1])

    async def test() -> None:
        async with model() as served:
            await served.generate(PROMPTS[0], SHORT)
            done = len(steps)
            await asyncio.sleep(0.05)
            assert len(steps) == done > 0

    run(test())


def test_an_engine_that_fails_ends_all_calls_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(engine: Engine) -> None:
        raise RuntimeError("the device is gone")

    async def test() -> None:
        async with model() as served:
            monkeypatch.setattr(Engine, "step", fail)
            calls = (served.generate(text, SHORT) for text in PROMPTS[:2])
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, EngineDeadError)
                assert "the device is gone" in str(result)
            with pytest.raises(EngineDeadError, match="the device is gone"):
                await served.generate(PROMPTS[0], SHORT)

    run(test())


def test_closing_ends_what_is_unfinished_and_its_thread() -> None:
    async def test() -> None:
        served = AsyncLLM("tiny-llada", num_threads=1)
        call = asyncio.create_task(served.generate(PROMPTS[0], LONG))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(served.close)
        with pytest.raises(EngineDeadError, match="closed"):
            await call
        with pytest.raises(EngineDeadError, match="closed"):
            await served.generate(PROMPTS[0], SHORT)
        assert "starr-engine" not in [thread.name for thread in threading.enumerate()]

    run(test())


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(RequestError, match="max_unfinished must be at least 1, got 0"):
        AsyncLLM(max_unfinished=0)
