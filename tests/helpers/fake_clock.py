"""A clock that stands still until it is told otherwise."""

from __future__ import annotations


class FakeClock:
    """Advances by ``tick`` whenever it is read, and by what is slept."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
