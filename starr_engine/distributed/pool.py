"""The actors: started, fed, heard, replaced when they die, and ended."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from starr_engine.errors import StarrError

MAX_FAILED_STARTS: Final = 3
"""A worker that dies so often in a row before its model is loaded ends the job."""


@dataclass(slots=True)
class Member:
    """One actor, from its start to its death."""

    key: int
    """Counted over all actors of the job: one that replaces another has a new one."""

    place: int
    """Which of the workers it is, from 0; its replacement takes the place."""

    actor: Any
    calls: deque[Any] = field(default_factory=deque)
    """References to what was asked and is not answered; the first to answer first."""

    info: Any = None
    """What it said when it was ready for work; None until then."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker is ready for work."""

    member: Member
    info: Any


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker has finished rows of a batch job, or cells of a study."""

    member: Member
    rows: list[tuple[int, Any]]
    """Index and result."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is no more, and another one starts in its place."""

    member: Member
    reason: str
    is_blameless: bool
    """Its machine, or the way there, has gone: not the rows' doing."""


Event = Ready | Finished | Died


class Pool:
    """Keeps a number of workers alive.

    Use as a context manager; at its end no actor is left.

    Args:
        count: How many.
        wanted: Ray's options of each actor: ``num_cpus``, ``num_gpus``.
        worker_class: What an actor is made of. Its ``load()`` comes first and returns what is then
            ``Member.info``; its ``work(items)`` returns finished ones with their indices.
        arguments: Of its constructor.
    """

    def __init__(
        self,
        count: int,
        wanted: Mapping[str, float],
        worker_class: type[Any],
        *arguments: object,
    ) -> None:
        remote = ray.remote(worker_class).options(max_restarts=0, max_task_retries=0, **wanted)
        self._start_actor: Final[Callable[[], Any]] = lambda: remote.remote(*arguments)
        self._keys: Final = itertools.count()
        self._failed_starts: Final = [0] * count
        self.members: Final[list[Member]] = []
        """By their places."""
        for place in range(count):
            self.members.append(self._new(place))

    def _new(self, place: int) -> Member:
        member = Member(key=next(self._keys), place=place, actor=self._start_actor())
        member.calls.append(member.actor.load.remote())
        return member

    def submit(self, member: Member, items: Sequence[Any]) -> None:
        """Give a worker rows or cells to run; the answer comes as an event."""
        member.calls.append(member.actor.work.remote(items))

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened, or happens within ``timeout_s``; may be nothing.

        Raises:
            StarrError: If a worker cannot load its model or go on with any row, or dies again and
                again while it starts.
        """
        # An actor answers in order, so that only its first call can be the next to be answered.
        heads = {member.calls[0]: member for member in self.members if member.calls}
        calls = list(heads)
        ray.wait(calls, num_returns=1, timeout=timeout_s)
        # All that are there, so that no worker waits behind others that answer more often.
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        return [self._hear(heads[call], call) for call in ready]

    def _hear(self, member: Member, call: Any) -> Event:
        try:
            answer = ray.get(call)
        except RayError as error:
            return self._replace(member, error)
        member.calls.popleft()
        if member.info is None:
            member.info = answer
            self._failed_starts[member.place] = 0
            return Ready(member, answer)
        return Finished(member, answer)

    def _replace(self, member: Member, error: RayError) -> Died:
        if isinstance(error, RayTaskError) and isinstance(error.cause, StarrError):
            raise error.cause
        died = Died(member, reason_of(error), _is_out_of_reach(error))
        if member.info is None and not died.is_blameless:
            self._failed_starts[member.place] += 1
            if self._failed_starts[member.place] == MAX_FAILED_STARTS:
                raise StarrError(
                    f"a worker died {MAX_FAILED_STARTS} times in a row while it loaded the model: "
                    f"{died.reason}"
                )
        end_actor(member.actor)  # one that raised is alive, and in an unknown state
        self.members[member.place] = self._new(member.place)
        return died

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for member in self.members:
            end_actor(member.actor)


def end_actor(actor: Any) -> None:
    """End its process, whatever it does."""
    with contextlib.suppress(RayError):
        ray.kill(actor, no_restart=True)


def _is_out_of_reach(error: RayError) -> bool:
    if isinstance(error, RayActorError) and error.preempted:
        return True
    # Of a machine that goes down Ray first notices the connection, and of a process its end.
    return isinstance(error, ActorUnavailableError) or "node has died" in str(error)


def reason_of(error: RayError) -> str:
    """What happened, in one line and without Ray's identifiers and guesses."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    return " ".join(lines[1:] or lines).partition(" Some common causes include")[0]
