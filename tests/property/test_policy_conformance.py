"""Every policy keeps the rules of ``starr_engine.testing``, and every rule can be broken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch

from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    RemaskingPolicy,
    State,
    StatelessPolicy,
)
from starr_engine.testing import check_policy, policy_views

# One entry per policy: the arguments of its variants.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "low_confidence": [{}, {"tokens_per_step": 3}, {"num_steps_per_block": 4}],
    "random": [{}, {"tokens_per_step": 2}],
    "entropy": [{}, {"tokens_per_step": 3}],
    "margin": [{}, {"num_steps_per_block": 4}],
    "ancestral": [{}, {"num_steps_per_block": 4}, {"num_steps_per_block": 1, "eps": 1.0}],
    "maskgit_plus": [
        {},
        {"num_steps_per_block": 4, "score": "entropy"},
        {"num_steps_per_block": 1},
        {"num_steps_per_block": 4, "score": "margin", "alg_temp": 0.4},
    ],
    "threshold": [
        {},
        {"threshold": 0.0},
        {"threshold": 0.5},
        {"threshold": 2.0},
        {"first_alone": True},
    ],
    "progress_threshold": [{}, {"threshold": 0.7, "slope": 1.0}],
    "age_threshold": [{}, {"threshold": 0.8, "end": 0.0, "num_steps": 3}],
    "factor": [{}, {"factor": 0.0}, {"factor": 3.0}],
    "frechet": [{}, {"delta": 0.0}, {"delta": 1.0}],
    "entropy_bound": [
        {},
        {"entropy_bound": 2.0, "max_steps": 12, "stability_steps": 0, "confidence_threshold": 0.7},
        {"entropy_bound": 0.0, "max_steps": 5, "t_max": 3.0, "t_min": 3.0},
        {"entropy_bound": 40.0, "max_steps": 80, "stability_steps": 2, "confidence_threshold": 9.0},
        {"max_steps": 1},
    ],
    "eb_sampler": [{}, {"gamma": 0.0}, {"gamma": 2.0, "order_by": "margin"}],
    "local_leap": [{}, {"threshold": 0.8, "relaxed": 0.3, "radius": 1}, {"radius": 0}],
    "hierarchy": [{}, {"threshold": 0.7, "low": 0.2}, {"revoke_below": 0.4}, {"revoke_below": 1.0}],
    "starr": [
        {},
        {"tau_min": 2, "tau_max": 2, "c_fast": 2, "c_slow": 2},
        {"temporal_window": 1, "neighbour_window": 0, "c_slow": 0.1, "tau_min": 0.1},
        {"patience": 1, "relax": 0.2, "restart_on_flip": False},
        {"revoke_below": 0.5, "tau_min": 0.3, "c_slow": 0.2},
        {"revoke_below": 1.0, "tau_min": 0.0, "c_slow": 0.0, "neighbour_window": 40},
        {"signal": "logit", "sigma": 1.0},
        {"deviance": "cosine", "top_k": 3},
        {"signal": "logit", "deviance": "cosine", "revoke_below": 0.2},
    ],
    "credit": [{}, {"threshold": 0.5}, {"threshold": 0.3, "decay": 1.0, "alpha": 3.0, "gamma": 0}],
    "dynamic_dllm": [
        {},
        {"mode": "token", "theta_0": 0.9},
        {"mode": "token", "alpha": 0.3, "theta_min": 0.3, "theta_max": 1.0},
        {"mode": "mean", "alpha": 0.2, "beta": 0.5, "theta_0": 0.6},
    ],
    "klass": [{}, {"epsilon": 5.0, "tau": 0.2}, {"history": 1, "epsilon": 1, "tokens_per_step": 2}],
    "saber": [{}, {"n": 1}, {"n": 4}, {"n": 40}],
    "stdec": [{}, {"tau": 0.6, "sigma": 0.2}, {"sigma": 30, "spatial": 0.8, "patience": 1}],
    "t2m": [
        {},
        {"strategy": "low_prob", "remask_threshold": 1.0, "max_share": 1.0, "threshold": 0.0},
        {"strategy": "t2t_remask", "remask_threshold": 0.2, "threshold": 0.3},
        {"strategy": "logit_diff", "remask_threshold": 0.1, "max_resets": 1, "threshold": 0.4},
        {"max_resets": 0},
    ],
    "tacg": [
        {},
        {"tau": 0.4, "floor": 0.1, "escape": 0.5, "min_streak": 2, "extra_ratio": 1.0},
        {"tau": 0.4, "floor": 0.1, "allow_empty_base": False, "guidance": 2, "decay": 0.5},
        {"min_streak": 1, "bonus": 2, "tokens_per_step": 3},
    ],
    "token_edit": [
        {},
        {"threshold": 0.3, "edit_threshold": 0.0, "max_post_steps": 5},
        {"threshold": 0.5, "max_post_steps": 0, "tokens_per_step": 3},
        {"threshold": 0.95, "edit_threshold": None, "tokens_per_step": 2},
    ],
    "wino": [
        {},
        {"tau1": 0.3, "tau2": 0.5},
        {"tau1": 0.0, "tau2": 1.0, "cap_min": 1, "cap_max": 3},
    ],
}
CASES = [(name, args) for name, variants in ARGUMENTS.items() for args in variants]


def draws_positions(name: str, args: dict[str, Any]) -> bool:
    return name in ("random", "ancestral") or bool(args.get("alg_temp"))


def test_every_registered_policy_is_held_to_the_rules() -> None:
    assert set(ARGUMENTS) == set(REMASKING_POLICIES)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_policy_keeps_the_rules(name: str, args: dict[str, Any]) -> None:
    policy = REMASKING_POLICIES.create(name, args)
    check_policy(policy, leftmost_first=not draws_positions(name, args))


@dataclass(frozen=True)
class Kept(StatelessPolicy):
    """Keeps every rule: one mask per step, the leftmost; the broken ones change one thing."""

    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.masked & (view.masked.cumsum(1) == 1)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view)), state


class NoDataClass(StatelessPolicy):
    decide = Kept.decide
    unmask = Kept.unmask


@dataclass(frozen=True)
class WithoutHash(Kept):
    values: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class UnequalTwin(Kept):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class SilentOnShadowRows(Kept):
    needs_shadow: ClassVar[Any] = None


@dataclass(frozen=True)
class StateOfNoRow(Kept):
    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return {"seen": torch.zeros(block_length)}


@dataclass(frozen=True)
class StateThatGrows(Kept):
    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return {"seen": torch.zeros(rows, 0)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        decision, _ = super().decide(view, state)
        return decision, {"seen": torch.cat([state["seen"], view.confidence[:, :1]], 1)}


@dataclass(frozen=True)
class Numbers(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view).long()), state


@dataclass(frozen=True)
class UnmasksTokens(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.confidence >= 0.9


@dataclass(frozen=True)
class RevokesMasks(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), revoke=view.confidence < 0.2), state


@dataclass(frozen=True)
class PutsTheMaskToken(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        tokens = torch.full_like(view.candidates, policy_views.MASK_TOKEN_ID)
        return Decision(unmask=self.unmask(view), tokens=tokens), state


@dataclass(frozen=True)
class TokensOnlyWhereUnmasked(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        unmask = self.unmask(view)
        return Decision(unmask=unmask, tokens=view.candidates.where(unmask, -1)), state


@dataclass(frozen=True)
class EditsMasks(Kept):
    scores_unmasked: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), edit=view.confidence < 0.2), state


@dataclass(frozen=True)
class EditsWhatItRevokes(Kept):
    scores_unmasked: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), edit=~view.masked, revoke=~view.masked), state


@dataclass(frozen=True)
class EditsUnseen(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), edit=~view.masked), state


@dataclass(frozen=True)
class HoldsPositions(Kept):
    scores_unmasked: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), hold=view.masked), state


@dataclass(frozen=True)
class HoldsInCompany(Kept):
    scores_unmasked: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        alone = torch.full_like(view.step, len(view.step) == 1, dtype=torch.bool)
        return Decision(unmask=self.unmask(view), hold=alone), state


@dataclass(frozen=True)
class SignalOfNoShape(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=self.unmask(view), signals={"line": torch.zeros(3)}), state


@dataclass(frozen=True)
class ChangesTheView(Kept):
    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        view.confidence.clamp_(max=0.5)
        return super().decide(view, state)


@dataclass(frozen=True)
class ChangesTheState(Kept):
    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return {"seen": torch.zeros(rows, 1)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        state["seen"].fill_(1)
        return super().decide(view, state)


@dataclass(frozen=True)
class DrawsFromTorch(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.masked & (torch.rand(view.masked.shape) < 0.5)


@dataclass(frozen=True)
class MeanOfTheBatch(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.masked & (view.confidence >= view.confidence.mean())


@dataclass(frozen=True)
class FirstRowOnly(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return super().unmask(view) & (torch.arange(len(view.masked)) == 0)[:, None]


@dataclass(frozen=True)
class StepOfTheFirstRow(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.masked & (view.masked.cumsum(1) <= view.step[0] + 1)


@dataclass(frozen=True)
class RightmostFirst(Kept):
    def unmask(self, view: BlockView) -> torch.Tensor:
        return view.masked & (view.masked.flip(1).cumsum(1).flip(1) == 1)


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (NoDataClass(), "value: NoDataClass must be a frozen data class"),
        (WithoutHash(), "value: it must have a hash: unhashable type: 'list'"),
        (UnequalTwin(), "value: made again from the same arguments it must be equal"),
        (SilentOnShadowRows(), "value: needs_shadow must be True or False, got None"),
        (
            StateOfNoRow(),
            "state: the first dimension of 'seen' must be the row: 1 rows, shape (9,)",
        ),
        (StateThatGrows(), "state: 'seen' must keep its shape and dtype (step 1, seed 0)"),
        (Numbers(), "decision: unmask must be a bool tensor (7, 9), got torch.int64 (7, 9)"),
        (UnmasksTokens(), "decision: it unmasked a position that is no mask (row 0, step 1"),
        (RevokesMasks(), "decision: it revoked a position that is a mask"),
        (
            PutsTheMaskToken(),
            "decision: it put a token that is none of the vocabulary, or the mask",
        ),
        (
            TokensOnlyWhereUnmasked(),
            "decision: it put a token that is none of the vocabulary, or the mask token (row 0",
        ),
        (EditsMasks(), "decision: it edited a position that is a mask"),
        (EditsWhatItRevokes(), "decision: it edited a position that it revoked"),
        (EditsUnseen(), "decision: edit and hold are for policies with scores_unmasked"),
        (HoldsPositions(), "decision: hold must be a bool tensor (7,), got torch.bool (7, 9)"),
        (HoldsInCompany(), "rows: a row was decided differently alone"),
        (SignalOfNoShape(), "decision: signal 'line' must be [n, L] or [n, 1]"),
        (ChangesTheView(), "purity: decide changed the view's confidence"),
        (ChangesTheState(), "purity: decide changed the state's 'seen'"),
        (DrawsFromTorch(), "purity: asked twice it gave two answers (row 0, step 0, seed 0)"),
        (MeanOfTheBatch(), "rows: a row was decided differently alone"),
        (FirstRowOnly(), "rows: the order of the rows changed the answer"),
        (StepOfTheFirstRow(), "rows: a row was decided differently beside rows at other steps"),
        (RightmostFirst(), "leftmost: of equal masks the leftmost must go first"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_policy_is_told_which_rule_it_breaks(policy: RemaskingPolicy, rule: str) -> None:
    check_policy(Kept())
    with pytest.raises(AssertionError) as caught:
        check_policy(policy)
    assert str(caught.value).startswith(rule)


def test_a_block_that_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine's guarantee keeps every policy from it; without the guarantee one can see it.
    @dataclass(frozen=True)
    class Never(Kept):
        def unmask(self, view: BlockView) -> torch.Tensor:
            return torch.zeros_like(view.masked)

    check_policy(Never())
    monkeypatch.setattr(policy_views, "guarantee_progress", lambda view, decision: decision)
    with pytest.raises(AssertionError, match="progress: row 0 is not done after 118 steps"):
        check_policy(Never())


def test_a_policy_that_draws_is_checked_without_the_last_rule() -> None:
    check_policy(RightmostFirst(), leftmost_first=False)


def test_a_state_may_hold_nan() -> None:
    @dataclass(frozen=True)
    class Unknown(Kept):
        def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
            return {"last": torch.full((rows, block_length), torch.nan)}

    check_policy(Unknown())
    check_policy(replace(Unknown()))
