"""The policies with memory decide as their twins in plain Python do, over random blocks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest
import torch

from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    RemaskingPolicy,
    State,
)
from starr_engine.testing.policy_views import ROWS, play
from tests.helpers.stateful_twins import TWINS, BlockLook

# Numbers that no confidence ties with: float32 and Python's floats may part there.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "klass": [{}, {"epsilon": 1.513, "tau": 0.217}, {"history": 1, "epsilon": 4.1, "tau": 0.1}],
    "dynamic_dllm": [
        {"theta_0": 0.9},
        {"mode": "token", "theta_0": 0.9, "alpha": 0.1},
        {"mode": "token", "alpha": 0.217, "theta_min": 0.317, "theta_max": 0.913},
        {"mode": "mean", "alpha": 0.117, "beta": 0.531, "theta_0": 0.613},
    ],
    "stdec": [{}, {"tau": 0.613, "sigma": 0.2}, {"sigma": 30, "spatial": 0.81, "patience": 2}],
    "tacg": [
        {},
        {"tau": 0.413, "floor": 0.113, "escape": 0.517, "min_streak": 2, "extra_ratio": 1.0},
        {"tau": 0.613, "floor": 0.113, "allow_empty_base": False, "guidance": 2, "decay": 0.5},
        {"tau": 0.613, "min_streak": 1, "bonus": 2, "tokens_per_step": 3},
    ],
    "credit": [
        {"threshold": 0.713},
        {"threshold": 0.513},
        {"threshold": 0.317, "decay": 1.0, "alpha": 3.0},
    ],
    "saber": [{}, {"n": 1}, {"n": 4}, {"n": 40}],
    "t2m": [
        {},
        {"remask_threshold": 1.0, "max_share": 1.0, "threshold": 0.0},
        {"strategy": "t2t_remask", "remask_threshold": 0.217, "threshold": 0.313},
        {"strategy": "logit_diff", "remask_threshold": 0.113, "max_resets": 1, "threshold": 0.413},
        {"max_resets": 0},
    ],
}
CASES = [(name, args) for name in TWINS for args in ARGUMENTS[name]]


@dataclass(frozen=True)
class Continuous:
    """A policy that is shown probabilities of logits, where random tenths would tie."""

    policy: RemaskingPolicy
    needs_logits: ClassVar[bool] = True
    needs_shadow: ClassVar[bool] = False

    @property
    def scores_unmasked(self) -> bool:
        return self.policy.scores_unmasked

    @property
    def step_limit(self) -> int | None:
        return self.policy.step_limit

    def temperature(self, step: int) -> float:
        return self.policy.temperature(step)

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return self.policy.init_state(rows, block_length, device)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return self.policy.decide(view, state)


def look_at(view: BlockView, row: int) -> BlockLook:
    return BlockLook(
        candidates=view.candidates[row].tolist(),
        confidence=view.confidence[row].tolist(),
        top1=view.top1[row].tolist(),
        top2=view.top2[row].tolist(),
        masked=view.masked[row].tolist(),
        num_left=int(view.num_left[row]),
        logits=[] if view.logits is None else view.logits[row].tolist(),
    )


def changes(decision: Decision, view: BlockView, row: int) -> tuple[set[int], set[int], list[int]]:
    unmask = set(decision.unmask[row].nonzero()[:, 0].tolist())
    revoke = decision.revoke
    revoked = set() if revoke is None else set(revoke[row].nonzero()[:, 0].tolist())
    tokens = view.candidates if decision.tokens is None else decision.tokens
    return unmask, revoked, tokens[row].tolist()


@pytest.mark.parametrize(("name", "args"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_policy_decides_as_its_twin(name: str, args: dict[str, Any], seed: int) -> None:
    policy = REMASKING_POLICIES.create(name, args)
    settled = dataclasses.asdict(cast(Any, policy))
    twins = [TWINS[name](settled) for _ in range(ROWS)]
    decided = 0
    for shot, decision, _ in play(Continuous(policy), seed):
        for place, row in enumerate(shot.rows.tolist()):
            unmask, revoke, tokens = twins[row].decide(look_at(shot.view, place))
            assert changes(decision, shot.view, place) == (unmask, revoke, tokens), (row, shot.step)
            decided += 1
    assert decided >= ROWS
