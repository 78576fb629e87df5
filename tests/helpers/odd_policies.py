"""Policies that no one would choose, for what the engine makes of their decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy


@dataclass(frozen=True)
class PutSecond(StatelessPolicy):
    """Unmasks everything at once, with the second best token."""

    needs_logits: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        assert view.logits is not None
        return Decision(unmask=view.masked, tokens=view.logits.topk(2).indices[..., 1]), state
