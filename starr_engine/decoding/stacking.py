"""The states of rows that are decided together stay together, from step to step.

A policy gives back one state for all rows of its group. Cutting it into rows and joining these at
the next step would take a tensor operation for each tensor and row; instead a row remembers its
place in the whole. As long as the same rows come in the same order, the whole is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from starr_engine.decoding.base import State, state_shapes

RowState = Mapping[str, Tensor]
"""Of one row: tensors whose first dimension is 1."""


@dataclass(frozen=True, slots=True, eq=False)
class StackedRow(Mapping[str, Tensor]):
    """A row's share of a state, cut out only if somebody looks at it."""

    stack: State
    """Of all rows of its group, as the policy gave it; not empty."""

    row: int

    def __getitem__(self, name: str) -> Tensor:
        return self.stack[name][self.row : self.row + 1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stack)

    def __len__(self) -> int:
        return len(self.stack)


def row_shapes(state: RowState) -> tuple[object, ...]:
    """:func:`state_shapes` of a row."""
    return state_shapes(state.stack if isinstance(state, StackedRow) else dict(state))


def cut(state: State, num_rows: int, *, stacked: bool) -> list[RowState]:
    """The rows of a state.

    Args:
        state: Of a group.
        num_rows: Of the group.
        stacked: Whether they stay together.
    """
    if not state:
        return [{}] * num_rows
    if stacked:
        return [StackedRow(state, row) for row in range(num_rows)]
    return [
        {name: values[row : row + 1] for name, values in state.items()} for row in range(num_rows)
    ]


def join(rows: Sequence[RowState]) -> State:
    """The state of rows that are decided together; of rows in their old order, the old one."""
    pieces = [_piece(run) for run in _runs(rows)]
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _runs(rows: Sequence[RowState]) -> list[list[RowState]]:
    """Neighbours that are neighbours in one stack, too."""
    runs: list[list[RowState]] = []
    for row in rows:
        last = runs[-1][-1] if runs else None
        if (
            isinstance(row, StackedRow)
            and isinstance(last, StackedRow)
            and row.stack is last.stack
            and row.row == last.row + 1
        ):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _piece(run: list[RowState]) -> State:
    first = run[0]
    if not isinstance(first, StackedRow):
        return dict(first)
    size = len(next(iter(first.stack.values())))
    if len(run) == size:
        return first.stack
    stop = first.row + len(run)
    return {name: values[first.row : stop] for name, values in first.stack.items()}
