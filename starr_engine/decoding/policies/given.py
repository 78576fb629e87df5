"""Tokens given from outside: what the engine uses to learn how probable a text is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.transfer import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTokens(StatelessPolicy):
    """Unmask the whole block at once, with tokens that are known.

    Not in the registry: ``Engine.add_request`` takes the tokens as ``given``. The request's
    ``mean_log_confidence`` is that of these tokens.
    """

    tokens: tuple[int, ...]
    """Of the block's masks, from left to right."""

    @property
    def step_limit(self) -> int:
        """1: nothing is left to do."""
        return 1

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        given = upload(np.array(self.tokens, np.int64), view.masked.device).repeat(len(view.masked))
        tokens = view.candidates.masked_scatter(view.masked, given)
        return Decision(unmask=view.masked, tokens=tokens), state
