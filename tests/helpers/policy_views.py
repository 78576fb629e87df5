"""Views of one block written out as lists, for policy tests worked out by hand."""

from __future__ import annotations

import torch

from starr_engine.decoding.base import BlockView, RemaskingPolicy, State


def view(
    confidence: list[float],
    *,
    masked: list[bool] | None = None,
    candidates: list[int] | None = None,
    top2: list[float] | None = None,
    entropy: list[float] | None = None,
    logits: list[list[float]] | None = None,
    step: int = 0,
    num_left: int = 0,
    progress: float = 0.0,
    seed: int = 0,
) -> BlockView:
    """One row of all masks unless ``masked`` says otherwise; candidates are 0, 1, 2 ..."""
    row = torch.tensor([confidence])
    length = len(confidence)
    given = None if logits is None else torch.tensor([logits])
    return BlockView(
        candidates=torch.tensor([candidates or list(range(length))]),
        confidence=row,
        top1=row,
        top2=torch.tensor([top2 or [0.0] * length]),
        entropy=torch.tensor([entropy or [0.0] * length]),
        masked=torch.tensor([masked or [True] * length]),
        step=torch.tensor([step]),
        num_left=torch.tensor([num_left]),
        progress=torch.tensor([progress]),
        seed=torch.tensor([seed]),
        logits=given,
        sampling_logits=given,
    )


def unmasked(policy: RemaskingPolicy, look: BlockView, state: State | None = None) -> list[int]:
    """Offsets that the policy unmasks, without the progress guarantee."""
    length = look.masked.shape[1]
    start = policy.init_state(1, length, torch.device("cpu")) if state is None else state
    decision, _ = policy.decide(look, start)
    return decision.unmask[0].nonzero()[:, 0].tolist()
