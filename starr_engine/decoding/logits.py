"""What a request asks of its logits: forbidden tokens, bias and penalties.

Letters: m rows of one request, V vocabulary, U different tokens on its canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.bad_words import BadWordGuard, BadWords, Ids, Places
from starr_engine.decoding.transfer import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCanvas:
    """What stands on a request's canvas, and which of its positions have logits."""

    prompt_ids: Ids
    """[p]."""

    output_ids: Ids
    """[max_tokens] masks included."""

    positions: Places
    """[m] positions with logits, counted from the output's start, ascending."""

    mask_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """Rules of one request about tokens, with ids that the model has; all off by default."""

    forbidden_ids: tuple[int, ...] = ()
    """Never generated."""

    allowed_ids: tuple[int, ...] | None = None
    """If given, no other token is ever generated."""

    bad_words: BadWords | None = None

    min_tokens: int = 0
    """Positions at which none of ``end_ids`` may stand."""

    end_ids: tuple[int, ...] = ()

    bias_ids: tuple[int, ...] = ()
    bias: tuple[float, ...] = ()
    """Of ``bias_ids``."""

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    uncounted_ids: tuple[int, ...] = ()
    """Not subject to penalties: EOS, which fills the canvas behind the output."""

    late_ids: tuple[int, ...] = ()
    """Unmasked after everything else; see :mod:`starr_engine.decoding.eos_last`."""

    @property
    def change_logits(self) -> bool:
        """Whether :meth:`apply` would do anything."""
        return bool(
            self.forbidden_ids or self.allowed_ids is not None or self.bad_words
            or self.min_tokens or self.bias_ids or self._penalize
        )  # fmt: skip

    @property
    def read_canvas(self) -> bool:
        """Whether they depend on what was unmasked."""
        return self.bad_words is not None or self._penalize

    @property
    def _penalize(self) -> bool:
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0)

    def guard(self, output_ids: Ids, block_start: int, mask_token_id: int) -> BadWordGuard | None:
        """What the decision of a step has to be checked with; None for most requests."""
        if self.bad_words is None:
            return None
        return BadWordGuard(
            bad_words=self.bad_words,
            output_ids=output_ids,
            block_start=block_start,
            mask_token_id=mask_token_id,
        )

    def apply(self, logits: Tensor, canvas: OutputCanvas) -> Tensor:
        """New float32 logits for the rows of the request.

        Order, as in vLLM: what is forbidden, bias, penalties. A token that stands at its row is
        never forbidden there, so that a policy that scores it again does not see it as impossible.

        Args:
            logits: [m, V], any float dtype; left as it is.
            canvas: Where the rows stand.
        """
        raw = logits.float()
        rows = self._forbid(raw, canvas)
        rows = restore_standing(rows, raw, canvas)
        if self.bias_ids:
            rows = add_bias(rows, self.bias_ids, self.bias)
        if self._penalize:
            ids, in_prompt, counts = count_standing(canvas, self.uncounted_ids)
            rows = penalize_repetition(rows, ids, in_prompt | (counts > 0), self.repetition_penalty)
            rows = penalize_counts(rows, ids, counts, self.presence_penalty, self.frequency_penalty)
        return rows

    def _forbid(self, rows: Tensor, canvas: OutputCanvas) -> Tensor:
        if self.allowed_ids is not None:
            rows = allow_only(rows, self.allowed_ids)
        if self.forbidden_ids:
            rows = forbid(rows, self.forbidden_ids)
        if self.min_tokens:
            rows = forbid_before(rows, canvas.positions, self.min_tokens, self.end_ids)
        if self.bad_words is not None:
            at, tokens = self.bad_words.completions(
                canvas.output_ids, canvas.positions, canvas.mask_token_id
            )
            rows = forbid_at(rows, at, tokens)
        return rows


def forbid(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """-inf for ``ids`` in every row."""
    return logits.index_fill(1, _index(ids, logits), -torch.inf)


def allow_only(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """-inf for everything but ``ids``."""
    kept = _index(ids, logits)
    return torch.full_like(logits, -torch.inf).index_copy(1, kept, logits[:, kept])


def forbid_before(
    logits: Tensor, positions: Places, min_tokens: int, ids: tuple[int, ...]
) -> Tensor:
    """-inf for ``ids`` in the rows whose position [m] lies before ``min_tokens``."""
    early = upload(positions < min_tokens, logits.device)
    return torch.where(early[:, None], forbid(logits, ids), logits)


def forbid_at(logits: Tensor, rows: Places, ids: Places) -> Tensor:
    """-inf for single entries: ``rows`` and ``ids``, both [f]."""
    where = (upload(rows, logits.device), upload(ids, logits.device))
    return logits.index_put(where, logits.new_full((), -torch.inf))


def restore_standing(logits: Tensor, raw: Tensor, canvas: OutputCanvas) -> Tensor:
    """The entry of ``raw`` for each row's own token, where it holds one."""
    standing = canvas.output_ids[canvas.positions].astype(np.int64)
    rows = np.flatnonzero(standing != canvas.mask_token_id)
    if len(rows) == 0:
        return logits
    where = (upload(rows, logits.device), upload(standing[rows], logits.device))
    return logits.index_put(where, raw[where])


def add_bias(logits: Tensor, ids: tuple[int, ...], bias: tuple[float, ...]) -> Tensor:
    """``bias`` added to ``ids`` in every row."""
    added = upload(np.array(bias, np.float32), logits.device).to(logits.dtype)
    return logits.index_add(1, _index(ids, logits), added.expand(len(logits), -1))


def count_standing(
    canvas: OutputCanvas, uncounted_ids: tuple[int, ...]
) -> tuple[Places, NDArray[np.bool_], NDArray[np.int64]]:
    """What else stands on the canvas of each row.

    A row's own token is left out, or a token would speak against itself when it is scored again.

    Returns:
        Different tokens [U] without ``uncounted_ids``; whether the prompt holds them [U]; how
        often the output does [m, U].
    """
    output = canvas.output_ids.astype(np.int64)
    generated = output[output != canvas.mask_token_id]
    ids = np.setdiff1d(np.concatenate([canvas.prompt_ids, generated]), uncounted_ids)
    ids = ids.astype(np.int64)
    own = output[canvas.positions][:, None] == ids
    kept = generated[np.isin(generated, ids)]
    counts = np.bincount(np.searchsorted(ids, kept), minlength=len(ids))
    return ids, np.isin(ids, canvas.prompt_ids), counts - own


def penalize_repetition(
    logits: Tensor, ids: Places, seen: NDArray[np.bool_], penalty: float
) -> Tensor:
    """Divide positive and multiply negative logits of ``ids`` [U] where ``seen`` [m, U].

    Source:
        CTRL, arXiv 1909.05858, section 4.1, in the form that reaches negative logits too.
    """
    index = upload(ids, logits.device)
    values = logits[:, index]
    penalized = torch.where(values > 0, values / penalty, values * penalty)
    chosen = torch.where(upload(seen, logits.device), penalized, values)
    return logits.index_copy(1, index, chosen)


def penalize_counts(
    logits: Tensor, ids: Places, counts: NDArray[np.int64], presence: float, frequency: float
) -> Tensor:
    """Take ``presence`` once and ``frequency`` per count [m, U] off the logits of ``ids`` [U]."""
    index = upload(ids, logits.device)
    off = upload(frequency * counts + presence * (counts > 0), logits.device).to(logits.dtype)
    return logits.index_copy(1, index, logits[:, index] - off)


def _index(ids: tuple[int, ...], like: Tensor) -> Tensor:
    return upload(np.array(ids, np.int64), like.device)
