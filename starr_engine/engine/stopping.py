"""Where an output ends: EOS, stop tokens, stop strings, length. The only place that knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from starr_engine.outputs import FinishReason
from starr_engine.params import SamplingParams
from starr_engine.request import Request, TokenIds
from starr_engine.tokenization import Tokenizer

CONTEXT_TOKENS: Final = 32
"""Tokens in front of a text that may decide how it begins; decoders look at one or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """What a request's committed blocks show to the user."""

    token_ids: TokenIds
    """Without EOS, stop tokens, and what follows a stop."""

    text: str
    finish_reason: FinishReason | None
    """None while the request goes on."""

    num_sure_ids: int
    """The first ``token_ids`` that no later block can take back."""

    num_sure_chars: int
    """The first characters of ``text`` that no later block can take back or change."""

    slots: tuple[str, ...] = ()
    """Texts of a finished template's runs of masks."""


class StopRule:
    """Looks for the end of an output whenever a block is committed, never inside a block.

    Args:
        eos_token_ids: From the checkpoint.
        tokenizer: None gives empty texts; stop strings need one.
    """

    def __init__(self, eos_token_ids: tuple[int, ...], tokenizer: Tokenizer | None) -> None:
        self._eos_token_ids = eos_token_ids
        self._tokenizer = tokenizer

    def end_ids(self, params: SamplingParams) -> tuple[int, ...]:
        """The tokens that end an output."""
        return params.stop_token_ids + (() if params.ignore_eos else self._eos_token_ids)

    def visible(self, request: Request) -> Visible:
        """The output as far as it is committed, and whether it ends there.

        A stop string counts if it ends behind the first ``min_tokens`` tokens, as in vLLM; stop
        tokens and EOS are kept from standing there by the logits.
        """
        if request.has_template:
            return self._filled(request)
        params, canvas = request.params, request.canvas
        ids = canvas.committed_ids
        found = np.flatnonzero(np.isin(ids, self.end_ids(params)))
        reason: FinishReason | None = None
        if len(found):
            ids, reason = ids[: found[0]], FinishReason.STOP
        elif canvas.block_index == canvas.num_blocks:
            reason = FinishReason.LENGTH
        text = self._decode(ids, params)
        if params.stop and (cut := self._cut(ids, text, params)) is not None:
            text, reason = text[:cut], FinishReason.STOP
            ids = self._ids_within(ids, len(text), params)
        sure_ids, sure_chars = len(ids), len(text)
        if reason is None:
            # The start of a stop string, or of a character, may stand at the end.
            held_back = max((len(stop) - 1 for stop in params.stop), default=0)
            sure_chars = len(text[: max(0, len(text) - held_back)].rstrip("\ufffd"))
            if params.stop:
                sure_ids = len(self._ids_within(ids, sure_chars, params))
        return Visible(
            token_ids=ids,
            text=text,
            finish_reason=reason,
            num_sure_ids=sure_ids,
            num_sure_chars=sure_chars,
        )

    def _filled(self, request: Request) -> Visible:
        """Of a template: nothing ends it but its last block."""
        canvas = request.canvas
        is_done = canvas.block_index == canvas.num_blocks
        text = self._decode_between(request, canvas.prompt_len, canvas.block_start)
        slots: tuple[str, ...] = ()
        if is_done:
            edges = np.flatnonzero(np.diff(~canvas.is_fixed, prepend=False, append=False))
            slots = tuple(
                self._decode_between(request, start, stop)
                for start, stop in edges.reshape(-1, 2).tolist()
            )
        return Visible(
            token_ids=canvas.committed_ids,
            text=text,
            finish_reason=FinishReason.LENGTH if is_done else None,
            num_sure_ids=len(canvas.committed_ids),
            num_sure_chars=len(text if is_done else text.rstrip("\ufffd")),
            slots=slots,
        )

    def _decode_between(self, request: Request, start: int, stop: int) -> str:
        """Text of some positions as it continues what is in front, with the space at the seam."""
        ids, params = request.canvas.token_ids, request.params
        first = max(0, start - CONTEXT_TOKENS)
        before = self._decode(ids[first:start], params)
        whole = self._decode(ids[first:stop], params)
        if whole.startswith(before):
            return whole[len(before) :]
        return self._decode(ids[start:stop], params)

    def _cut(self, ids: TokenIds, text: str, params: SamplingParams) -> int | None:
        """How much of the text is left by the stop string that begins first; None without one."""
        settled = len(self._decode(ids[: params.min_tokens], params)) if params.min_tokens else 0
        found = [
            (at, at + len(stop))
            for stop in params.stop
            if (at := text.find(stop, max(0, settled - len(stop) + 1))) >= 0
        ]
        if not found:
            return None
        start, end = min(found)
        return end if params.include_stop_str_in_output else start

    def _ids_within(self, ids: TokenIds, text_len: int, params: SamplingParams) -> TokenIds:
        # From the end, because little is ever cut off.
        count = len(ids)
        while count > 0 and len(self._decode(ids[:count], params)) > text_len:
            count -= 1
        return ids[:count]

    def _decode(self, ids: TokenIds, params: SamplingParams) -> str:
        if self._tokenizer is None or len(ids) == 0:
            return ""
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=params.skip_special_tokens)
