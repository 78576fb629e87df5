"""Ranks as processes: the tokens of one rank, and no process outlives its engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import LLM, AsyncLLM, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.rank_group import hear_answers, tell_settings
from starr_engine.engine.rank_processes import RankProcesses
from starr_engine.errors import ConfigError, EngineDeadError
from starr_engine.models.loading.locate import shipped_models

CPU = torch.device("cpu")
PROMPTS = ["Sort: 5 3 9 ->", "Sort: 7 1 2 8 ->", "2 + 3 ="]
PARAMS = SamplingParams(max_tokens=48, ignore_eos=True)
TIME_LIMIT_S = 60.0


def is_there(process_id: int) -> bool:
    """Whether a process is there that has not ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        return fields[0] != "Z"
    return False


def wait_until_gone(process_id: int) -> None:
    limit = time.monotonic() + TIME_LIMIT_S
    while is_there(process_id):
        assert time.monotonic() < limit, "a rank outlives its engine"
        time.sleep(0.02)


@pytest.fixture
def groups() -> Iterator[list[RankProcesses]]:
    """Those that :func:`engine_of` has started; none of their processes is left after the test."""
    started: list[RankProcesses] = []
    yield started
    for group in started:
        group.close()
        assert not any(map(is_there, group.process_ids))


def engine_of(groups: list[RankProcesses], **options: Any) -> Engine:
    def start(count: int, device: torch.device) -> RankProcesses:
        groups.append(RankProcesses(count, device))
        return groups[-1]

    config = EngineConfig(device="cpu", tensor_parallel_size=2, **options)
    engine = Engine(config, start)
    engine.add_request([5, 6, 7], PARAMS)
    return engine


@pytest.mark.parametrize("model", shipped_models())
def test_a_shipped_model_says_the_same_over_two_processes(model: str) -> None:
    one = LLM(model, device="cpu", num_threads=1).generate(PROMPTS, PARAMS)
    with LLM(model, device="cpu", tensor_parallel_size=2, kv_memory="20%") as llm:
        two = llm.generate(PROMPTS, PARAMS)
        assert llm.engine.config.num_threads == max(1, torch.get_num_threads() // 2)
    for output, expected in zip(two, one, strict=True):
        assert output.error is None
        assert (output.token_ids, output.nfe) == (expected.token_ids, expected.nfe)
    with pytest.raises(EngineDeadError, match="the engine is closed; make a new engine"):
        llm.generate(PROMPTS, PARAMS)


def test_a_killed_rank_ends_the_engine_with_its_name(groups: list[RankProcesses]) -> None:
    engine = engine_of(groups)
    engine.step()
    (process_id,) = groups[0].process_ids
    os.kill(process_id, signal.SIGKILL)
    message = rf"rank 1 \(process {process_id}\) was ended by signal SIGKILL; make a new engine"
    for _ in range(2):
        with pytest.raises(EngineDeadError, match=message):
            engine.step()
        assert not is_there(process_id)


def test_a_rank_that_fails_in_a_step_says_why(groups: list[RankProcesses]) -> None:
    engine = engine_of(groups)
    groups[0].tell(b"no batch at all: 48 bytes and then some are read")
    with pytest.raises(EngineDeadError, match=r"rank 1 .* exit status 1: ValueError: .*buffer"):
        engine.step()


def test_an_interrupted_step_leaves_no_process(
    groups: list[RankProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(groups)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.executor, "_plain_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert not any(map(is_there, groups[0].process_ids))
    with pytest.raises(EngineDeadError, match="a step was interrupted"):
        engine.step()


def test_a_rank_that_cannot_load_says_why(groups: list[RankProcesses], tmp_path: Path) -> None:
    groups.append(RankProcesses(2, CPU))
    wanted = {"dtype": "float32", "load_format": "auto", "mask_block_length": None}
    tell_settings(groups[0], folder=str(tmp_path), num_threads=1, **wanted)
    with pytest.raises(ConfigError, match=r"rank 1: .*config\.json"):
        hear_answers(groups[0])


def test_a_rank_that_cannot_start_is_no_riddle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(EngineDeadError, match=r"rank 1 \(process \d+\) ended with exit status 1"):
        RankProcesses(2, CPU)


def test_a_forgotten_engine_takes_its_ranks_along() -> None:
    group = RankProcesses(2, CPU)
    (process_id,) = group.process_ids
    assert is_there(process_id)
    del group
    gc.collect()
    assert not is_there(process_id)


def test_async_callers_learn_of_a_dead_rank() -> None:
    async def call() -> int:
        async with AsyncLLM(device="cpu", tensor_parallel_size=2) as llm:
            group = llm._thread._engine._others
            assert isinstance(group, RankProcesses)
            (process_id,) = group.process_ids
            os.kill(process_id, signal.SIGKILL)
            with pytest.raises(EngineDeadError, match=r"^rank 1 .* SIGKILL; make a new engine$"):
                await llm.generate(PROMPTS[0], PARAMS)
        return process_id

    assert not is_there(asyncio.run(call()))


def test_ranks_end_with_a_killed_rank_0() -> None:
    # A script as people write it, without a guard around its main part.
    script = (
        "from starr_engine import LLM\n"
        "llm = LLM('tiny-llada', device='cpu', tensor_parallel_size=2)\n"
        "print(*llm.engine._others.process_ids, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as rank_0:
        assert rank_0.stdout is not None
        process_id = int(rank_0.stdout.readline())
        assert is_there(process_id)
        rank_0.kill()
    wait_until_gone(process_id)
