"""Policies and exit rules stay on their device and never ask it for a number.

The meta device has shapes and no values: a tensor made on the CPU beside it, ``.item()`` and a
branch on a value all raise there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from starr_engine.decoding.base import REMASKING_POLICIES, BlockView
from starr_engine.decoding.exit.base import EXIT_RULES

META = torch.device("meta")
ROWS, LENGTH, VOCABULARY = 3, 5, 7


def meta_view(dtype_of_noise: torch.dtype) -> BlockView:
    def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    block: dict[str, Any] = {
        name: tensor(ROWS, LENGTH) for name in ("confidence", "top1", "top2", "entropy")
    }
    counts = {name: tensor(ROWS, dtype=torch.int64) for name in ("step", "num_left", "seed")}
    return BlockView(
        candidates=tensor(ROWS, LENGTH, dtype=torch.int64),
        masked=tensor(ROWS, LENGTH, dtype=torch.bool),
        progress=tensor(ROWS),
        proposals=tensor(ROWS, LENGTH, dtype=torch.int64),
        proposal_confidence=tensor(ROWS, LENGTH),
        logits=tensor(ROWS, LENGTH, VOCABULARY),
        sampling_logits=tensor(ROWS, LENGTH, VOCABULARY, dtype=dtype_of_noise),
        **block,
        **counts,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("klass", {}),
        ("dynamic_dllm", {"mode": "token"}),
        ("dynamic_dllm", {"mode": "mean", "theta_min": 0.3}),
        ("stdec", {}),
        ("tacg", {"allow_empty_base": False}),
        ("credit", {}),
        ("saber", {}),
        ("t2m", {"strategy": "low_prob"}),
        ("t2m", {"strategy": "t2t_remask"}),
        ("t2m", {"strategy": "logit_diff"}),
        ("token_edit", {"tokens_per_step": 2}),
    ],
)
def test_a_policy_decides_without_asking_the_device(
    name: str, args: dict[str, Any], dtype: torch.dtype
) -> None:
    policy = REMASKING_POLICIES.create(name, args)
    state = policy.init_state(ROWS, LENGTH, META)
    for _ in range(2):
        decision, state = policy.decide(meta_view(dtype), state)
        assert decision.unmask.device == META
        assert all(values.device == META for values in state.values())
        assert all(values.dtype is not torch.float64 for values in state.values())
        if decision.tokens is not None:
            assert decision.tokens.shape == (ROWS, LENGTH)


@pytest.mark.parametrize("name", EXIT_RULES.names())
def test_an_exit_rule_decides_without_asking_the_device(name: str) -> None:
    fill = EXIT_RULES.create(name, {}).decide(meta_view(torch.float32))
    assert (fill.device, fill.shape, fill.dtype) == (META, (ROWS,), torch.bool)
