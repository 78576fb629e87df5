"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starr_engine.trace import Trace


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """EOS, a stop token or a stop string stands in the output."""

    LENGTH = "length"
    """All ``max_tokens`` positions are committed."""

    ABORT = "abort"
    """The caller aborted it; the output holds the blocks committed until then."""

    ERROR = "error"
    """It failed while it ran; ``error`` says why, the output holds the blocks committed until
    then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOutput:
    """One committed block of a running request, for streaming."""

    request_id: str

    block_index: int
    """Counted from 0."""

    token_ids: tuple[int, ...]
    """What this block adds to the ids; those of all blocks join to the final ids. While the last
    tokens may be the start of a stop string, they wait for the next block."""

    text: str
    """What this block adds to the text; the texts of all blocks join to the final text."""

    num_forwards: int
    """NFE of the request so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """The result of one finished request."""

    request_id: str

    prompt_token_ids: tuple[int, ...]

    token_ids: tuple[int, ...]
    """Generated ids without EOS, stop tokens and what follows them."""

    text: str

    finish_reason: FinishReason

    nfe: int
    """Model forwards in which this request took part, refreshes included."""

    num_unmasked: int
    """Masks that became tokens, those at and after EOS included."""

    computed_rows: int
    """Token rows computed over all forwards; what a cache saves shows here."""

    cache_label: str
    """``exact``, or ``approximate: <why>``."""

    latency_s: float
    """Seconds from arrival to finish."""

    error: str | None = None
    """Why the request failed, with finish reason ``error``."""

    trace: Trace | None = field(default=None, repr=False)
    """What happened at every step, if the request asked for it."""

    @property
    def tpf(self) -> float:
        """Tokens per forward: unmasked positions / NFE; 0 before the first forward."""
        return self.num_unmasked / self.nfe if self.nfe else 0.0
