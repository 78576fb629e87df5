"""A model over two GPUs, with NCCL, gives what one gives; a dead rank ends the engine there too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from starr_engine import LLM, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.rank_processes import RankProcesses
from starr_engine.errors import EngineDeadError
from tests.helpers.engines import as_prompts, random_prompts
from tests.helpers.made import make_sharp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


@pytest.mark.parametrize("architecture", ["dream", "llada2"])
def test_two_gpus_give_the_tokens_of_one(tmp_path: Path, architecture: str) -> None:
    make_sharp(tmp_path / "model", architecture)
    prompts = as_prompts(random_prompts(5))
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    options = {"dtype": "float32", "num_pages": 80}
    one = LLM(str(tmp_path / "model"), device="cuda:0", **options).generate(prompts, params)
    with LLM(str(tmp_path / "model"), device="cuda", tensor_parallel_size=2, **options) as llm:
        two = llm.generate(prompts, params)
    for output, expected in zip(two, one, strict=True):
        assert output.error is None
        assert output.token_ids == expected.token_ids


def test_a_killed_rank_ends_the_engine() -> None:
    engine = Engine(EngineConfig(device="cuda", tensor_parallel_size=2))
    engine.add_request([5, 6, 7], SamplingParams(max_tokens=256, ignore_eos=True))
    engine.step()
    assert isinstance(engine._others, RankProcesses)
    os.kill(engine._others.process_ids[0], signal.SIGKILL)

    def run() -> None:
        while engine.has_unfinished:
            engine.step()

    with pytest.raises(EngineDeadError, match=r"rank 1 .* SIGKILL"):
        run()
