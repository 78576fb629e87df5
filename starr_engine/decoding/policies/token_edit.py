"""Token editing: a static threshold for masks, and another one for replacing tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.guarantee import MAX_HELD_STEPS
from starr_engine.decoding.policies.checks import check_count, check_unit_interval
from starr_engine.decoding.policies.ranking import take_best


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEditPolicy(PolicyDefaults):
    """LLaDA2.1's joint rule: mask to token above one threshold, token to token above another.

    With M the masks of the block, T its other generated tokens, y_i what the model proposes at
    position i, p_i its probability, and x_i the token that stands there:

        U = {i in M : p_i > threshold}, or the tokens_per_step most probable of M if U has fewer
        E = {i in T : p_i > edit_threshold and y_i != x_i}

    and y_i is put at both. When no mask is left the block stays open for up to ``max_post_steps``
    more forwards, which edit alone, and is final after the first of them that edits nothing. The
    prompt, other blocks and fixed tokens are never edited.

    Published settings: "quality" .7 / .5 and "speed" .5 / 0, both with 16 post steps and blocks of
    32; the defaults are those of quality. LLaDA2.0's rule is that of this policy without editing:
    ``threshold`` .95, no ``edit_threshold``; its ``steps`` of a block of 32 are
    ``tokens_per_step`` = 32 / steps.

    Differs from the authors' code: the mask token is never proposed; with a temperature p_i is the
    probability without it and without truncation; of equal masks the leftmost goes first; a post
    step that the engine's options keep from editing (bad words) still counts as one that wanted
    to. Left out is the penalty that SGLang's version can put on repeating the left neighbour:
    its default is none, and ``repetition_penalty`` serves every policy.

    State: 8 bytes a block.

    Source:
        LLaDA2.1, "Speeding Up Text Diffusion via Token Editing", 2026; ``generate`` of the
        published modelling file, and JointThreshold in SGLang.

    Raises:
        RequestError: If an argument is out of range; names all of a kind at once.
    """

    scores_unmasked: ClassVar[bool] = True

    threshold: float = 0.7
    """Confidence above which a mask is unmasked; 1 or more gives ``tokens_per_step``."""

    edit_threshold: float | None = 0.5
    """Confidence above which a proposal replaces a token; None never edits."""

    max_post_steps: int = 16
    """Forwards on a block without masks, in which tokens are edited."""

    tokens_per_step: int = 1
    """Masks that every step unmasks at least, while there are as many."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", upper=2.0)
        if self.edit_threshold is not None:
            check_unit_interval(self, "edit_threshold", upper=2.0)
        check_count(self, "max_post_steps", least=0, most=MAX_HELD_STEPS)
        check_count(self, "tokens_per_step")

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """``posts``: int64 [rows] forwards done on the block without masks."""
        return {"posts": torch.zeros(rows, dtype=torch.int64, device=device)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        assert view.proposals is not None
        assert view.proposal_confidence is not None
        sure = view.masked & (view.confidence > self.threshold)
        best = take_best(view.confidence, view.masked, self.tokens_per_step)
        is_few = sure.sum(1) < self.tokens_per_step
        unmask = torch.where(is_few[:, None], best, sure)

        line = view.confidence.new_full((), self.threshold).expand_as(view.confidence)
        edit = torch.zeros_like(view.masked)
        if self.edit_threshold is not None:
            differs = ~view.masked & (view.proposals != view.candidates)
            edit = differs & (view.proposal_confidence > self.edit_threshold)
            line = torch.where(view.masked, line, self.edit_threshold)

        was_full = ~view.masked.any(1)
        posts = state["posts"] + was_full
        wants_more = (edit.any(1) | ~was_full) & (posts < self.max_post_steps)
        return Decision(
            unmask=unmask,
            edit=edit,
            hold=wants_more if self.edit_threshold is not None else torch.zeros_like(was_full),
            signals={
                "threshold": line,
                "confidence": view.proposal_confidence,
                "standing_confidence": view.confidence,
            },
        ), {"posts": posts}
