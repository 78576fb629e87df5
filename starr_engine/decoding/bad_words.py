"""Token sequences that must never stand in an output, on a canvas that fills in any order.

Left to right, only a word's last token can complete it. On a canvas any of its tokens can, and a
step that unmasks several positions may put several of them at once. So there are two rules: a
token that would complete a word with those around it is forbidden at its position, and of the
positions of one step that complete a word together the least confident stays masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadWords:
    """Words of two or more tokens; words of one are plain forbidden tokens."""

    words: tuple[tuple[int, ...], ...]

    def completions(
        self, output_ids: Ids, positions: Places, mask_token_id: int
    ) -> tuple[Places, Places]:
        """What the logits must forbid.

        Args:
            output_ids: [max_tokens] the output's canvas, masks included.
            positions: [m] of the rows, counted from the output's start, ascending.
            mask_token_id: From the checkpoint.

        Returns:
            Rows and tokens, both [f]: the token would complete a word at the row's mask.
        """
        rows: list[Places] = [np.empty(0, np.int64)]
        tokens: list[Places] = [np.empty(0, np.int64)]
        if len(positions):
            for word, first, agree in self._matches(output_ids, positions):
                near = np.flatnonzero(agree.sum(1) == len(word) - 1)
                place = agree[near].argmin(1)
                at = first + near + place
                row = np.searchsorted(positions, at).clip(max=len(positions) - 1)
                is_row = (positions[row] == at) & (output_ids[at] == mask_token_id)
                rows.append(row[is_row])
                tokens.append(word[place[is_row]])
        return np.concatenate(rows), np.concatenate(tokens)

    def spare(
        self,
        output_ids: Ids,
        positions: Places,
        token_ids: Ids,
        confidence: NDArray[np.float32],
        mask_token_id: int,
    ) -> NDArray[np.bool_]:
        """Which positions of a step may be unmasked together.

        The most confident of them always may, because the logits keep it from completing a word
        alone: a step that would unmask something still does.

        Args:
            output_ids: [max_tokens] the output's canvas after the step's revocations.
            positions: [u] to unmask, counted from the output's start, ascending.
            token_ids: [u] to put there.
            confidence: [u]; the least confident position of a word stays masked, the rightmost
                among equals.
            mask_token_id: From the checkpoint.

        Returns:
            [u] False for those that stay masked.
        """
        kept = np.ones(len(positions), np.bool_)
        if len(positions) < 2:
            return kept
        after = output_ids.copy()
        after[positions] = token_ids
        for word, first, agree in self._matches(after, positions):
            for start in first + np.flatnonzero(agree.all(1)):
                stop = start + len(word)
                if (after[start:stop] != word).any():
                    continue  # broken up by a position that is masked again
                inside = np.flatnonzero(kept & (positions >= start) & (positions < stop))
                if len(inside) == 0:
                    continue  # stood there before: given with the prompt
                least = inside[confidence[inside] == confidence[inside].min()][-1]
                kept[least] = False
                after[positions[least]] = mask_token_id
        return kept

    def is_completed_at(self, output_ids: Ids, position: int) -> bool:
        """Whether a word stands across ``position`` of the output's canvas."""
        near = self._matches(output_ids, np.array([position], np.int64))
        return any(bool(agree.all(1).any()) for _, _, agree in near)

    def _matches(
        self, output_ids: Ids, positions: Places
    ) -> Iterator[tuple[Places, int, NDArray[np.bool_]]]:
        """Each word [k], the first of the windows [w] near ``positions``, where they agree [w, k].

        # windows   |<- k ->|
        # region    first                                     last position + k - 1
        #           first position - k + 1
        """
        for entry in self.words:
            word = np.array(entry, np.int64)
            first = max(0, int(positions[0]) - len(word) + 1)
            region = output_ids[first : int(positions[-1]) + len(word)]
            if len(region) >= len(word):
                windows = np.lib.stride_tricks.sliding_window_view(region, len(word))
                yield word, first, windows == word


@dataclass(frozen=True, slots=True, kw_only=True)
class BadWordGuard:
    """The bad words of a request, and the canvas on which its step must not complete one."""

    bad_words: BadWords

    output_ids: Ids
    """[max_tokens] before the step."""

    block_start: int
    """Of the active block, counted from the output's start."""

    mask_token_id: int

    def spare(
        self, revoke: Places, unmask: Places, token_ids: Ids, confidence: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """:meth:`BadWords.spare` for offsets within the block."""
        output_ids = self.output_ids.copy()
        output_ids[self.block_start + revoke] = self.mask_token_id
        return self.bad_words.spare(
            output_ids, self.block_start + unmask, token_ids, confidence, self.mask_token_id
        )

    def keep_edits(
        self,
        revoke: Places,
        unmask: Places,
        unmask_ids: Ids,
        edit: Places,
        edit_ids: Ids,
    ) -> NDArray[np.bool_]:
        """Which edits [e] complete no word, taken one after the other from the left.

        Args:
            revoke: Offsets within the block that become masks.
            unmask: [u] offsets that are unmasked, after :meth:`spare`.
            unmask_ids: [u].
            edit: [e] offsets whose token is replaced, ascending.
            edit_ids: [e].
        """
        output_ids = self.output_ids.copy()
        output_ids[self.block_start + revoke] = self.mask_token_id
        output_ids[self.block_start + unmask] = unmask_ids
        kept = np.ones(len(edit), np.bool_)
        for at, position in enumerate((self.block_start + edit).tolist()):
            before = output_ids[position]
            output_ids[position] = edit_ids[at]
            if self.bad_words.is_completed_at(output_ids, position):
                output_ids[position] = before
                kept[at] = False
        return kept
