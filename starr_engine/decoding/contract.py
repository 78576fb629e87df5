"""What the engine refuses in a policy's decision, before anything acts on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy

Refuse = Callable[[Tensor, Callable[[], str]], None]
"""Told of something that must hold nowhere, bool, and of what to say where it does."""


def refuse_now(wrong: Tensor, problem: Callable[[], str]) -> None:
    """Wait for the device.

    Raises:
        ValueError: If it holds anywhere.
    """
    if wrong.any():
        raise ValueError(problem())


def check_decision(
    policy: RemaskingPolicy, view: BlockView, decision: Decision, refuse: Refuse = refuse_now
) -> None:
    """Shapes, dtypes, and what may be changed where; tokens are checked against the logits.

    Args:
        policy: Whose decision it is.
        view: What it saw.
        decision: What it said.
        refuse: Gets what only the device knows.

    Raises:
        ValueError: Says which field is wrong.
    """
    shape = view.masked.shape
    for name in ("unmask", "revoke", "edit"):
        chosen = getattr(decision, name)
        if chosen is not None and (chosen.dtype is not torch.bool or chosen.shape != shape):
            raise ValueError(f"{name} must be a bool tensor {tuple(shape)}")
    hold = decision.hold
    if hold is not None and (hold.dtype is not torch.bool or hold.shape != shape[:1]):
        raise ValueError(f"hold must be a bool tensor {tuple(shape[:1])}")
    unmask, revoke, edit = decision.unmask, decision.revoke, decision.edit
    refuse(unmask & ~view.masked, lambda: "it unmasked a position that is no mask")
    if revoke is not None:
        refuse(revoke & view.masked, lambda: "it revoked a position that is a mask")
    if edit is not None:
        refuse(edit & view.masked, lambda: "it edited a position that is a mask")
        if revoke is not None:
            refuse(edit & revoke, lambda: "it edited a position that it revoked")
    if not policy.scores_unmasked and (decision.edit is not None or hold is not None):
        raise ValueError("edit and hold are for policies with scores_unmasked")
    for name, values in (decision.signals or {}).items():
        if values.shape not in (shape, (shape[0], 1)):
            raise ValueError(f"signal {name!r} must be a tensor {tuple(shape)} or of one column")
