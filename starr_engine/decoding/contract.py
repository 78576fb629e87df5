"""What the engine refuses in a policy's decision, before anything acts on it."""

from __future__ import annotations

import torch

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy


def check_decision(policy: RemaskingPolicy, view: BlockView, decision: Decision) -> None:
    """Shapes, dtypes, and what may be changed where; tokens are checked against the logits.

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
    if (decision.unmask & ~view.masked).any():
        raise ValueError("it unmasked a position that is no mask")
    if decision.revoke is not None and (decision.revoke & view.masked).any():
        raise ValueError("it revoked a position that is a mask")
    if decision.edit is not None:
        if (decision.edit & view.masked).any():
            raise ValueError("it edited a position that is a mask")
        if decision.revoke is not None and (decision.edit & decision.revoke).any():
            raise ValueError("it edited a position that it revoked")
    if not policy.scores_unmasked and (decision.edit is not None or hold is not None):
        raise ValueError("edit and hold are for policies with scores_unmasked")
    for name, values in (decision.signals or {}).items():
        if values.shape not in (shape, (shape[0], 1)):
            raise ValueError(f"signal {name!r} must be a tensor {tuple(shape)} or of one column")
