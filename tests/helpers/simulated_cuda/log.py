"""What the simulated device was asked to do, in order, and who asked."""

from __future__ import annotations

import enum
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import starr_engine

_PACKAGE = str(Path(starr_engine.__file__).parent)
_HELPERS = str(Path(__file__).parent)


class Kind(enum.Enum):
    """Of an event."""

    LAUNCH = "launch"
    """A kernel was queued."""

    UPLOAD = "upload"
    """A copy from pinned memory was queued."""

    DOWNLOAD = "download"
    """A copy to pinned memory was queued."""

    WAIT = "wait"
    """The host stood still until the device was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    kind: Kind

    name: str
    """Of the op, or of what was called of ``torch.cuda``."""

    where: str
    """Nearest function of the engine, such as ``engine/decoder.py:wait``; empty if none."""

    behind: int = 0
    """Of a wait: how much had been queued behind what was waited for."""


class Log:
    """All that happened, and how far the host knows the device to be."""

    def __init__(self) -> None:
        self.events: list[Event] = []

        self.num_queued = 0
        """Kernels and copies so far."""

        self.num_done = 0
        """How many of them are known to be done."""

    def queue(self, kind: Kind, name: str) -> None:
        """Something was put on the stream."""
        self.num_queued += 1
        self.events.append(Event(kind=kind, name=name, where=_where()))

    def wait(self, name: str, upto: int | None = None) -> None:
        """The host waits until so much is done, by default all of it; for what is done it need not.

        A wait for all counts even if nothing is under way: the next time something may be.
        """
        if upto is not None and upto <= self.num_done:
            return
        upto = self.num_queued if upto is None else upto
        self.num_done = max(self.num_done, upto)
        behind = self.num_queued - upto
        self.events.append(Event(kind=Kind.WAIT, name=name, where=_where(), behind=behind))

    @contextmanager
    def record(self) -> Iterator[Recorded]:
        """What happens inside."""
        recorded = Recorded([])
        start = len(self.events)
        try:
            yield recorded
        finally:
            recorded.events.extend(self.events[start:])


@dataclass(frozen=True, slots=True)
class Recorded:
    """Some events, in order."""

    events: list[Event]

    def of(self, kind: Kind) -> list[Event]:
        """Those of one kind."""
        return [event for event in self.events if event.kind is kind]

    def places(self, kind: Kind) -> Counter[str]:
        """How many of a kind each function of the engine caused."""
        return Counter(f"{event.where} {event.name}" for event in self.of(kind))


def _where() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file[len(_PACKAGE) + 1 :]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return ""
