"""Which cell a worker gets next, and what becomes of it when the worker dies."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Final

from starr_engine.study.grid.axes import Cell


class CellHandout:
    """Hands cells out one at a time, those of one engine to a worker that has it loaded.

    A cell whose worker dies runs again; one that ends a second worker is set aside. A worker has
    one cell at a time, so that it is known which one it was.

    Args:
        cells: In the order of the grid.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells: Final = cells
        self._waiting: Final[dict[str, deque[int]]] = {}
        for number, cell in enumerate(cells):
            self._waiting.setdefault(_engine_of(cell), deque()).append(number)
        self._held: Final[dict[int, int]] = {}
        self._loaded: Final[dict[int, str]] = {}
        self._suspects: Final[set[int]] = set()

    @property
    def is_done(self) -> bool:
        """Whether every cell is finished or set aside."""
        return not self._held and not any(self._waiting.values())

    def take(self, worker: int) -> int | None:
        """The number of the cell to give to a worker now; None if it has one or none is left.

        A worker goes on with the engine it has loaded. When that has no cell left it gets the one
        with the most cells for each worker that is at it.

        Args:
            worker: Its key.
        """
        if worker in self._held:
            return None
        loaded = self._loaded.get(worker)
        if loaded is None or not self._waiting[loaded]:
            left = {name: cells for name, cells in self._waiting.items() if cells}
            if not left:
                return None
            others = [name for key, name in self._loaded.items() if key != worker]
            loaded = max(left, key=lambda name: len(left[name]) / (1 + others.count(name)))
            self._loaded[worker] = loaded
        number = self._waiting[loaded].popleft()
        self._held[worker] = number
        return number

    def finish(self, worker: int) -> None:
        """A worker has finished its cell."""
        del self._held[worker]

    def lose(self, worker: int, *, is_blameless: bool = False) -> int | None:
        """A worker has died.

        Args:
            worker: It is never heard of again.
            is_blameless: Its cell cannot be the reason, as when its machine is gone.

        Returns:
            The number of the cell that is set aside, if it is.
        """
        self._loaded.pop(worker, None)
        number = self._held.pop(worker, None)
        if number is None:
            return None
        if number in self._suspects and not is_blameless:
            return number
        if not is_blameless:
            self._suspects.add(number)
        self._waiting[_engine_of(self._cells[number])].appendleft(number)
        return None


def _engine_of(cell: Cell) -> str:
    return json.dumps([cell.model, cell.batch_size, dict(cell.engine)], sort_keys=True)
