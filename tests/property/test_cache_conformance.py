"""The suite that holds cache policies to the rules: it passes those here, and no wrong one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from starr_engine.cache.base import CACHE_POLICIES, CacheView, StepKind, StepPlan
from starr_engine.cache.policies.dual import DualCache
from starr_engine.params import Args
from starr_engine.testing import check_cache

SETTINGS: list[tuple[str, Args]] = [
    ("none", {}),
    ("none", {"suffix_window": 3}),
    ("prefix", {"refresh": "never"}),
    ("dual", {}),
    ("dual", {"isolate_prompt": True}),
    ("dual", {"refresh": "drift", "drift_budget": 0.05, "suffix_window": 4}),
    ("vicinity", {"look_back": 3, "look_ahead": 2}),
    ("delayed", {}),
    ("dllm", {"prompt_interval": 5, "response_interval": 3}),
    ("block_causal", {}),
]


@pytest.mark.parametrize(("name", "args"), SETTINGS)
def test_the_policies_here_keep_the_rules_of_plans(name: str, args: Args) -> None:
    check_cache(name, args, generates=False)


@pytest.mark.parametrize("name", ["dual", "block_causal"])
def test_the_defaults_keep_the_rules_of_the_engine(name: str) -> None:
    check_cache(name, seeds=range(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleContext(DualCache):
    """Reads tokens of earlier blocks with the keys of their masks."""

    def plan(self, view: CacheView) -> StepPlan:
        everything = ((0, view.num_rows),)
        if view.steps_since_refresh == 0:
            return StepPlan(
                kind=StepKind.REFRESH, query=everything, write=everything, read=everything
            )
        block = ((view.block_start, view.block_stop),)
        return StepPlan(kind=StepKind.BLOCK, query=block, write=block, read=everything)


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesWhatItReads(DualCache):
    def plan(self, view: CacheView) -> StepPlan:
        plan = DualCache.plan(self, view)
        return replace(plan, write=plan.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetsScores(DualCache):
    def plan(self, view: CacheView) -> StepPlan:
        plan = DualCache.plan(self, view)
        inner = ((view.block_start, view.block_stop - 1),)
        return plan if plan.kind is StepKind.REFRESH else replace(plan, query=inner, write=inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(DualCache):
    """Keeps a count of its own, which requests share."""

    def plan(self, view: CacheView) -> StepPlan:
        _PLANNED.append(view.num_steps)
        plan = DualCache.plan(self, view)
        return replace(plan, kind=StepKind.BLOCK) if len(_PLANNED) % 2 else plan


_PLANNED: list[int] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Overconfident(DualCache):
    def label(self, mask_block: int | None) -> str:
        return "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vague(DualCache):
    def label(self, mask_block: int | None) -> str:
        return "nearly exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverResumes(DualCache):
    """Says that it can go on without its pages, and goes on as if it had them."""

    refresh: str = "never"

    @property
    def resumable(self) -> bool:
        return True

    def plan(self, view: CacheView) -> StepPlan:
        plan = DualCache.plan(self, view)
        if view.num_steps == 0 or view.cached:
            return plan
        block = ((view.block_start, view.block_stop),)
        return replace(plan, kind=StepKind.BLOCK, query=block, write=block)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsUnsaid(DualCache):
    def plan(self, view: CacheView) -> StepPlan:
        plan = DualCache.plan(self, view)
        return plan if view.num_steps == 0 else replace(plan, partial=plan.write, num_chosen=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusesAll(DualCache):
    def refusal(self, mask_block: int | None) -> str:
        return "not today"


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (StaleContext, "plans: plan refused: a dirty row outside the active block"),
        (WritesWhatItReads, "plans: plan refused: write must be a subset of query"),
        (ForgetsScores, "plans: plan refused: score must be a subset of query"),
        (Counts, "purity: asked twice it plans differently"),
        (Vague, "value: the label for bidirectional models"),
        (NeverResumes, "plans: plan refused: a row read must be in query or cached.*resumed"),
        (PartsUnsaid, "pages: partial rows without keeps_features"),
        (RefusesAll, "value: it refuses bidirectional and block-causal models alike"),
        (Overconfident, "engine: tiny-llada: the label says exact, and logits are off"),
    ],
)
def test_a_wrong_policy_is_named_with_its_rule(
    wrong: type[DualCache], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CACHE_POLICIES._targets, "wrong", wrong)
    with pytest.raises(AssertionError, match=rule):
        check_cache("wrong", seeds=range(2))
