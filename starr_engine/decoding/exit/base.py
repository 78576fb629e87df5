"""Early exit: when to fill all masks of a block at once with what the model proposes.

Apart from remasking and off unless asked for: it works with every policy, and it is unsafe. What
it fills was not sure enough for the policy, and no later step can see it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision
from starr_engine.errors import RequestError
from starr_engine.params import SamplingParams
from starr_engine.registry import Registry


class ExitRule(Protocol):
    """A pure function of a view, as a frozen data class whose fields are its arguments."""

    def decide(self, view: BlockView) -> Tensor:
        """Rows whose active block is to be filled now: bool [n]. The view is not changed."""
        ...


def exit_early(rule: ExitRule | None, view: BlockView, decision: Decision) -> Decision:
    """Fill the rows for which ``rule`` says so; what the policy would revoke there stays.

    Such a block is final: its policy does not hold it.

    The tokens are the policy's where it gave its own, else the view's candidates.

    Raises:
        ValueError: If the rule answers with anything but a bool [n].
    """
    if rule is None:
        return decision
    fill = rule.decide(view)
    if fill.dtype is not torch.bool or fill.shape != view.step.shape:
        raise ValueError(f"{type(rule).__name__} must give a bool tensor {tuple(view.step.shape)}")
    unmask = torch.where(fill[:, None], view.masked, decision.unmask)
    revoke = None if decision.revoke is None else decision.revoke & ~fill[:, None]
    hold = None if decision.hold is None else decision.hold & ~fill
    return replace(decision, unmask=unmask, revoke=revoke, hold=hold)


EXIT_RULES: Registry[ExitRule] = Registry(
    "early exit rule", RequestError, group="starr_engine.early_exit_rules", members=("decide",)
)
for _name, _target in {
    "prophet": "prophet:ProphetRule",
    "sched": "sched:SchedRule",
}.items():
    EXIT_RULES.add(_name, f"starr_engine.decoding.exit.{_target}")


def create_exit_rule(params: SamplingParams) -> ExitRule | None:
    """The rule that a request asks for, or None.

    Raises:
        RequestError: If the rule is unknown or does not take one of its arguments.
    """
    if params.early_exit is None:
        return None
    return EXIT_RULES.create(params.early_exit, params.early_exit_args)
