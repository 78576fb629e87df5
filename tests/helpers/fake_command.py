"""``python -m tests.helpers.fake_command``: the real command line over the fake LLM.

The check of policy names is left out: it would import torch, which takes longer than the test.
"""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from starr_engine.cli import batch
from starr_engine.cli.main import main
from starr_engine.params import SamplingParams
from tests.helpers.fake_llm import FakeLLM

STEP_S = 0.002
"""Slow enough that a parent can see the journal grow and aim."""


def make_llm(*, model: str, max_num_requests: int, **_: object) -> FakeLLM:
    return FakeLLM(batch_size=max_num_requests, step_s=STEP_S, model=model)


def make_params(args: argparse.Namespace) -> SamplingParams:
    return SamplingParams(seed=args.seed)


if __name__ == "__main__":
    module = ModuleType("starr_engine.llm")
    module.LLM = make_llm  # type: ignore[attr-defined]
    sys.modules["starr_engine.llm"] = module
    batch.sampling_params = make_params
    sys.exit(main())
