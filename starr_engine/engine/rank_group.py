"""The other ranks of a split model as rank 0 sees them, whoever hosts them.

Rank 0 owns the engine; the others do as they are told. What is told goes to all of them alike, in
order: how to load, which pages to make, then every batch (``StepArrays.message``), at last nothing,
which ends them. Tensors go by collectives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

import torch

from starr_engine import errors
from starr_engine.errors import EngineDeadError, StarrError
from starr_engine.layers.ranks import Ranks

_PATIENCE_S: Final = 5.0
"""A broken connection is seen before the end of the process behind it."""


class RankGroup(Protocol):
    """Where ranks 1 and up run: processes of this machine, or whatever else can host them."""

    ranks: Ranks
    """Of rank 0, connected with the others."""

    def tell(self, message: bytes) -> None:
        """Send to all; does not wait until it is read.

        Raises:
            OSError: If one of them is not there.
        """
        ...

    def hear(self) -> list[bytes]:
        """The next answer of each, in the order of the ranks.

        Raises:
            EngineDeadError: If one of them died before it answered.
        """
        ...

    def death(self, patience_s: float = 0.0) -> str | None:
        """Why the group is of no use any more; None if nothing is wrong within so many seconds."""
        ...

    def close(self) -> None:
        """Let all of them end and wait until none is left; repeating it does nothing."""
        ...

    def abandon(self, reason: str) -> None:
        """As :meth:`close`, but at once, because they are out of step.

        Args:
            reason: What :meth:`death` says from then on, unless there was a death before.
        """
        ...


class Channel(Protocol):
    """The way to rank 0, as another rank sees it."""

    def receive(self) -> bytes:
        """The next thing told; empty when all is over."""
        ...

    def answer(self, message: bytes) -> None:
        """Send to rank 0."""
        ...


def tell_settings(group: RankGroup, **settings: Any) -> None:
    """Tell all ranks in JSON; see ``engine/rank_worker.py``.

    Raises:
        EngineDeadError: If one of them is no more.
    """
    try:
        group.tell(json.dumps(settings).encode())
    except OSError as error:
        raise EngineDeadError(group.death(_PATIENCE_S) or f"a rank is gone: {error}") from error


def hear_answers(group: RankGroup) -> list[dict[str, Any]]:
    """What each rank answers to settings, once all have.

    Raises:
        StarrError: Of the kind that a rank failed with, and its words.
        EngineDeadError: If one of them is no more.
    """
    answers: list[dict[str, Any]] = [json.loads(answer) for answer in group.hear()]
    for rank, answer in enumerate(answers, start=1):
        if (problem := failure(answer)) is not None:
            kind = getattr(errors, answer["error"], EngineDeadError)
            raise kind(f"rank {rank}: {problem}")
    return answers


def failed(error: BaseException) -> bytes:
    """What a rank says when it cannot go on."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, StarrError) else f"{kind}: {error}"
    known = kind if isinstance(error, StarrError) else EngineDeadError.__name__
    return json.dumps({"error": known, "message": text}).encode()


def failure(answer: Mapping[str, Any]) -> str | None:
    """What is wrong with a rank that answers so, if anything is."""
    return answer["message"] if "error" in answer else None


@contextmanager
def in_step(group: RankGroup, device: torch.device) -> Iterator[None]:
    """Around what all ranks do together: whatever goes wrong in between ends the group.

    Raises:
        EngineDeadError: With the reason, once no other rank is left; an interrupt stays one.
    """
    if reason := group.death():
        raise _dead(reason)
    try:
        yield
        if device.type == "cuda":
            # A collective that was broken off ends without an error, and leaves anything behind.
            torch.cuda.current_stream(device).synchronize()
            if reason := group.death():
                raise _dead(reason)
    except Exception as error:
        reason = group.death(_PATIENCE_S) or f"rank 0 failed: {type(error).__name__}: {error}"
        group.abandon(reason)
        raise _dead(reason) from error
    except BaseException:
        group.abandon("a step was interrupted, which left the ranks out of step")
        raise


def _dead(reason: str) -> EngineDeadError:
    return EngineDeadError(f"{reason}; make a new engine")
