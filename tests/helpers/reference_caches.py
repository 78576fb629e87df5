"""The cache procedures a second time: one request, dense arrays, one set of rows per step.

Each procedure says in one function which live rows a step recomputes; keys and values of the
others are read as they were when their row was last computed, whatever has changed since. A
procedure is a ``logits_of`` of :mod:`tests.helpers.reference_engine`, which does the rest.

    prefix, dual   Fast-dLLM, arXiv 2505.22618
    vicinity       dInfer, arXiv 2510.08666
    delayed        dKV-Cache, arXiv 2505.15781, the decode variant
    dllm           dLLM-Cache, arXiv 2506.06295: see :mod:`tests.helpers.reference_dllm`

What differs from the authors' code, in each case as the engine has it: a block that a full step
completed takes no further forward (Fast-dLLM and dInfer make one). ``warmup`` of vicinity counts
full steps; dInfer's warm-up of w steps keeps no cache, so that the step behind it is full as well,
which is ``warmup=w + 1``. Full steps of delayed are counted from the last one; dKV-Cache makes
those full whose number in the block is 0, 1 or a multiple of the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.helpers.llada_reference import Array, LLaDAReference, Turned
from tests.helpers.reference_engine import ReferenceOutput

Rows = set[int]

NEVER = -1
"""Stands for the token of a row that was never computed."""

WINDOW = {"suffix_window": None, "suffix_tail": True}
REFRESH = {"refresh": "block", "refresh_every": None}
DEFAULTS: dict[str, dict[str, Any]] = {
    "none": WINDOW,
    "prefix": WINDOW | REFRESH,
    "dual": WINDOW | REFRESH,
    "vicinity": WINDOW | REFRESH | {"look_back": 16, "look_ahead": 16, "warmup": 0},
    "delayed": WINDOW | {"refresh": "block", "refresh_every": 8, "warmup": 2},
    "dllm": {"prompt_interval": 50, "response_interval": 7, "ratio": 0.25},
}
"""Arguments of each procedure."""


@dataclass(frozen=True)
class CachedOutput(ReferenceOutput):
    computed_rows: int
    """Rows computed, summed over all steps."""

    narrowest: float = np.inf
    """How close the closest decision of the cache itself was; see ``reference_dllm``."""


class CachedRows:
    """Keys and values of one canvas, per layer one row for each position.

    What was never computed is NaN, so that reading it shows in the logits.
    """

    def __init__(self, model: LLaDAReference, num_rows: int) -> None:
        self.model = model
        _, key = model.query_key(0, model.embed([0]), np.zeros(1, np.int64))
        value = model.value(0, model.embed([0]))
        self.keys: list[Turned] = [
            np.full((num_rows, *key.shape[1:]), np.nan, np.complex128)
            for _ in range(model.num_layers)
        ]
        self.values: list[Array] = [
            np.full((num_rows, *value.shape[1:]), np.nan) for _ in range(model.num_layers)
        ]
        self.tokens = [NEVER] * num_rows
        """The token that each row held when it was last computed."""

    def unclean(self, canvas: Sequence[int]) -> Rows:
        """Rows never computed, or whose token has changed since."""
        return {i for i, token in enumerate(canvas) if self.tokens[i] != token}

    def compute(
        self, canvas: Sequence[int], computed: Rows, live: Rows, mask_block: int | None = None
    ) -> Array:
        """Compute some rows over all live rows and keep their keys and values.

        Returns:
            Logits [len(canvas), vocabulary]; NaN for rows not computed.
        """
        assert computed <= live
        query_rows, read_rows = np.array(sorted(computed)), np.array(sorted(live))
        visible = None
        if mask_block is not None:
            visible = read_rows[None, :] // mask_block <= query_rows[:, None] // mask_block
        x = self.model.embed([canvas[i] for i in query_rows])
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            query, keys[query_rows] = self.model.query_key(layer, x, query_rows)
            values[query_rows] = self.model.value(layer, x)
            x = x + self.model.attend(layer, query, keys[read_rows], values[read_rows], visible)
            x = x + self.model.feed_forward(layer, x)
        for row in computed:
            self.tokens[row] = canvas[row]
        return spread(self.model.head(x), query_rows, len(canvas))


def spread(logits: Array, rows: NDArray[np.int64], num_rows: int) -> Array:
    """Logits of some rows at their places among all, the others NaN."""
    everywhere = np.full((num_rows, logits.shape[1]), np.nan)
    everywhere[rows] = logits
    assert not np.isnan(logits).any(), "a row was read that was never computed"
    return everywhere


@dataclass(frozen=True)
class Moment:
    """Where a request stands before a step."""

    canvas: Sequence[int]
    mask: int
    start: int
    """Of the active block."""

    stop: int
    live: Rows
    step: int
    """Of the request, from 0."""

    step_in_block: int
    since_full: int
    """Steps since all live rows were computed, that step included."""

    shift: int = 0
    """How many rows in front of a position its logits stand."""


def is_full(name: str, m: Moment, args: Mapping[str, Any]) -> bool:
    """Whether a step computes every live row."""
    if m.step == 0 or name == "none":
        return True
    if name == "delayed":
        at_start = m.step_in_block < args["warmup"]
    else:
        at_start = m.step_in_block == 0 and args["refresh"] == "block"
        at_start |= m.step < args.get("warmup", 0)
    every = args["refresh_every"]
    return at_start or (every is not None and m.since_full >= every)


def inner_rows(name: str, m: Moment, args: Mapping[str, Any]) -> Rows:
    """Rows that a step computes between two full ones, as published."""
    start = m.start - (m.shift if m.canvas[m.start] == m.mask else 0)
    if name == "prefix":
        return {i for i in m.live if i >= start}
    if name == "dual":
        return {i for i in m.live if start <= i < m.stop}
    if name == "vicinity":
        first, last = start - args["look_back"], m.stop + args["look_ahead"]
        return {i for i in m.live if first <= i < last}
    assert name == "delayed"
    needed = {i - m.shift for i in range(m.start, m.stop) if m.canvas[i] == m.mask}
    return {i for i in m.live if m.canvas[i] == m.mask} | needed


def live_rows(canvas: Sequence[int], mask: int, stop: int, args: Mapping[str, Any]) -> Rows:
    """Rows that exist for attention: all, or of the masks behind the block only a window.

    Args:
        canvas: Token ids.
        mask: The mask token.
        stop: Of the active block.
        args: ``suffix_window`` masks behind the block are kept; ``suffix_tail`` keeps the last
            row of the canvas too. Tokens are always kept, and every row its position.
    """
    window = args.get("suffix_window")
    behind = [i for i in range(stop, len(canvas)) if canvas[i] == mask]
    if window is None:
        return set(range(len(canvas)))
    dropped = set(behind[window:])
    if args["suffix_tail"]:
        dropped -= {len(canvas) - 1}
    return set(range(len(canvas))) - dropped


class CachedForward:
    """The forwards of one request under a procedure; called once per step with the canvas.

    Args:
        model: The dense twin.
        name: A key of :data:`DEFAULTS`.
        args: All arguments of the procedure.
        mask: The mask token.
        blocks: Start and stop of each block.
        shift: How many rows in front of a position its logits stand.
    """

    def __init__(
        self,
        model: LLaDAReference,
        name: str,
        args: Mapping[str, Any],
        mask: int,
        blocks: Sequence[tuple[int, int]],
        shift: int = 0,
    ) -> None:
        self.shift = shift
        self.model, self.name, self.args, self.mask = model, name, args, mask
        self.blocks = blocks
        self.rows: CachedRows | None = None
        self.computed_rows = 0
        self.narrowest = np.inf
        self.step = self.step_in_block = self.since_full = 0
        self.start = -1

    def __call__(self, canvas: Sequence[int]) -> Array:
        """Logits [len(canvas), vocabulary] of one step; NaN where no row was computed."""
        self.rows = self.rows or CachedRows(self.model, len(canvas))
        start, stop = next(block for block in self.blocks if self.mask in canvas[slice(*block)])
        self.step_in_block = self.step_in_block + 1 if start == self.start else 0
        self.start = start
        live = live_rows(canvas, self.mask, stop, self.args)
        moment = Moment(
            canvas,
            self.mask,
            start,
            stop,
            live,
            self.step,
            self.step_in_block,
            self.since_full,
            self.shift,
        )
        if is_full(self.name, moment, self.args):
            computed, self.since_full = live, 0
        else:
            # Nothing is read that was computed with another token, or not at all. A procedure
            # that is full at the start of a block never comes to that by itself.
            computed = inner_rows(self.name, moment, self.args)
            unclean = self.rows.unclean(canvas) & live
            is_published = self.name != "delayed" and self.args["refresh"] == "block"
            assert not (is_published and unclean - computed)
            computed |= unclean
        self.step += 1
        self.since_full += 1
        self.computed_rows += len(computed)
        return self.rows.compute(canvas, computed, live)
