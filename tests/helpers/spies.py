"""Policies that can be asked afterwards what happened."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Spy:
    """A policy that remembers what it saw and said; two spies are never equal."""

    inner: RemaskingPolicy
    seen: list[tuple[BlockView, Decision]]

    __hash__ = object.__hash__
    needs_shadow = False

    @property
    def scores_unmasked(self) -> bool:
        return self.inner.scores_unmasked

    @property
    def needs_logits(self) -> bool:
        return self.inner.needs_logits

    @property
    def step_limit(self) -> int | None:
        return self.inner.step_limit

    def temperature(self, step: int) -> float:
        return self.inner.temperature(step)

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return self.inner.init_state(rows, block_length, device)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        decision, state = self.inner.decide(view, state)
        self.seen.append((view, decision))
        return decision, state
