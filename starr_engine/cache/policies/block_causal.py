"""Exact cache of block-causal models: a finished block never changes again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from starr_engine.cache.base import EXACT, CacheDefaults, CacheView, StepKind, StepPlan
from starr_engine.cache.refresh import active_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCausalCache(CacheDefaults):
    """Compute from the first mask block that is not final up to the active block's end.

    A row sees the rows up to the end of its own mask block, so keys and values of a block whose
    tokens are final, computed with these tokens, are final. One rule serves all steps:

        first step          prompt (what no other request has left in the cache) and block
        inside a block      the block alone
        next block's first  the block before, with its final tokens (the commit), and the block

    so that the commit costs no forward of its own. The last block of a request is not committed:
    nobody reads it. With a causal context the rule is the same, and a finished block counts as not
    computed, because its rows have seen what lies behind them.

    Where the logits of a position are those of the row in front of it, that row is computed again
    beside the active block, and what the cache holds of it stays.

    Source:
        BD3-LM, arXiv 2503.09573; SDAR, arXiv 2510.06303. Overlapping the commit with the next
        block's first step: D2F, arXiv 2508.09192.
    """

    shares_prefix: ClassVar[bool] = True

    def label(self, mask_block: int | None) -> str:
        """Exact."""
        del mask_block
        return EXACT

    def refusal(self, mask_block: int | None) -> str:
        """Serves block-causal models only."""
        if mask_block is not None:
            return ""
        return (
            "this model is bidirectional, so that every row depends on all others; "
            "use cache='dual' (approximate) or 'none'"
        )

    def plan(self, view: CacheView) -> StepPlan:
        """From the first block with a row that is not cached or dirty."""
        length = view.mask_block
        assert length is not None, "refused for bidirectional models"
        active = view.block_start - view.block_start % length
        # Masks are cached and not dirty, but what they were computed with is about to change.
        start = min(view.num_clean, active)
        start -= start % length
        if view.steps_since_refresh == 0:
            kind = StepKind.PREFILL
        else:
            kind = StepKind.COMMIT if start < active else StepKind.BLOCK
        return StepPlan(
            kind=kind,
            query=((min(start, active_rows(view)[0]), view.num_rows),),
            write=((start, view.num_rows),),
            read=((0, view.num_rows),),
        )
