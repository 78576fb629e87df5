"""What a request gives back."""

from __future__ import annotations

from collections.abc import Sequence
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
    """All positions, ``max_tokens`` of them or those of the template, are committed."""

    ABORT = "abort"
    """The caller aborted it; the output holds the blocks committed until then."""

    ERROR = "error"
    """It failed while it ran; ``error`` says why, the output holds the blocks committed until
    then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """How probable a token was at the step that put it there, by unmasking or editing."""

    token_id: int

    logprob: float
    """Natural logarithm, of the distribution after bias, penalties and forbidden tokens, before
    temperature and truncation: the logarithm of the token's confidence."""

    step: int
    """The forward that put it there, counted from 1 (NFE); the last one if there were several."""

    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens at that step and their log-probabilities, best first; without
    those that were forbidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOutput:
    """One committed block of a running request, for streaming."""

    request_id: str

    block_index: int
    """Counted from 0. A block of fixed tokens alone comes with the one in front of it."""

    token_ids: tuple[int, ...]
    """What this block adds to the ids; those of all blocks join to the final ids. While the last
    tokens may be the start of a stop string, they wait for the next block."""

    text: str
    """What this block adds to the text; the texts of all blocks join to the final text."""

    num_forwards: int
    """NFE of the request so far."""

    logprobs: tuple[TokenLogprob, ...] | None = None
    """As ``RequestOutput.logprobs``, of what this block adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionalOutput:
    """The active block of a running request after a step, which later steps may still change."""

    request_id: str
    block_index: int

    token_ids: tuple[int | None, ...]
    """Of the block's positions in order; None where a mask stands."""

    num_forwards: int
    """NFE of the request so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDrift:
    """How far the logits were off because rows were reused, over the steps that were probed.

    Compared are the scored rows, before the request's options change their logits and without the
    mask token. The numbers are None while no row was compared.
    """

    probe_forwards: int = 0
    """Steps probed, each by one forward of all live rows; ``nfe`` does not count them."""

    rows_compared: int = 0

    flip_rate: float | None = None
    """Share of the rows with another most probable token."""

    mean_kl: float | None = None
    """Of KL(all rows computed || as cached), in nats."""

    max_kl: float | None = None

    mean_confidence_error: float | None = None
    """Of the absolute difference of the largest probability."""

    max_confidence_error: float | None = None

    @classmethod
    def total(cls, parts: Sequence[CacheDrift]) -> CacheDrift:
        """Of the rows of all of them."""
        seen = [part for part in parts if part.rows_compared]
        num_rows = sum(part.rows_compared for part in seen)

        def mean(name: str) -> float:
            weighted = (float(getattr(part, name)) * part.rows_compared for part in seen)
            return sum(weighted) / num_rows

        def largest(name: str) -> float:
            return max(float(getattr(part, name)) for part in seen)

        return cls(
            probe_forwards=sum(part.probe_forwards for part in parts),
            rows_compared=num_rows,
            flip_rate=mean("flip_rate") if seen else None,
            mean_kl=mean("mean_kl") if seen else None,
            max_kl=largest("max_kl") if seen else None,
            mean_confidence_error=mean("mean_confidence_error") if seen else None,
            max_confidence_error=largest("max_confidence_error") if seen else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """The result of one finished request."""

    request_id: str

    prompt_token_ids: tuple[int, ...]

    token_ids: tuple[int, ...]
    """Generated ids without EOS, stop tokens and what follows them; of a template all from its
    first mask to its last."""

    text: str
    """Of ``token_ids``; of a template as it continues what stands in front."""

    finish_reason: FinishReason

    nfe: int
    """Model forwards in which this request took part, refreshes included."""

    num_unmasked: int
    """Masks that became tokens, those at and after EOS included."""

    computed_rows: int
    """Token rows computed over all forwards; what a cache saves shows here. A row that only some
    layers compute counts as its share of them, each forward's sum rounded up."""

    cache_label: str
    """``exact``, or ``approximate: <why>``."""

    latency_s: float
    """Seconds from arrival to finish."""

    num_edited: int = 0
    """Tokens that another took the place of, before their block was final."""

    num_refreshes: int = 0
    """Those of the forwards that computed all live rows, to reuse them."""

    num_cached_tokens: int = 0
    """Rows taken from pages that an earlier request had filled, counted at each admission."""

    num_preemptions: int = 0
    """How often it gave up its pages to an earlier request and was taken up again."""

    drift: CacheDrift | None = None
    """What probes found, with a ``cache_probe_rate`` above 0."""

    error: str | None = None
    """Why the request failed, with finish reason ``error``."""

    trace: Trace | None = field(default=None, repr=False)
    """What happened at every step, if the request asked for it."""

    mean_log_confidence: float | None = None
    """Mean of log(confidence at the moment it was put there) over all generated tokens, those at
    and after EOS included; None while there is none."""

    slots: tuple[str, ...] = ()
    """Text of each run of masks of a template, in order; empty for other requests and for those
    that did not finish."""

    gap_lengths_tried: tuple[int, ...] = ()
    """Lengths among which this output fitted best; empty if the length was given."""

    search_nfe: int = 0
    """Forwards spent on choosing the gap's length: those of the lengths that were not taken, and
    one for each length to judge it; not part of ``nfe``."""

    @property
    def total_nfe(self) -> int:
        """All forwards, those spent on choosing a gap's length included."""
        return self.nfe + self.search_nfe

    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each of ``token_ids`` but the fixed ones of a template; None if
    ``SamplingParams.logprobs`` is."""

    other_samples: tuple[RequestOutput, ...] = ()
    """Samples 1 to n - 1, where more than one was asked for; this output is sample 0."""

    @property
    def samples(self) -> tuple[RequestOutput, ...]:
        """All samples, this one first."""
        return (self, *self.other_samples)

    @property
    def tpf(self) -> float:
        """Tokens per forward: unmasked positions / NFE; 0 before the first forward."""
        return self.num_unmasked / self.nfe if self.nfe else 0.0
