"""What a cache policy may see, written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.rows import RowRanges


@dataclass(frozen=True, kw_only=True)
class View:
    """A ``CacheView``: 40 rows, the middle block of three active, everything cached and clean."""

    num_rows: int = 40
    block_start: int = 24
    block_stop: int = 32
    prompt_len: int = 16
    mask_block: int | None = None
    logits_shift: int = 0
    num_steps: int = 9
    steps_in_block: int = 1
    steps_since_refresh: int = 1
    drift_since_refresh: float = 0.0
    num_clean: int = 40
    cached: RowRanges = ((0, 40),)
    dirty: RowRanges = ()
    masked: RowRanges = ((26, 40),)
    scored: RowRanges = ((26, 32),)

    @property
    def first_scored(self) -> int:
        return self.scored[0][0] if self.scored else self.block_stop
