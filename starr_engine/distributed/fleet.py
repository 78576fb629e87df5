"""The replicas of a server: started, given requests, heard, replaced when they die, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from ray.exceptions import RayError, RayTaskError

from starr_engine.distributed.loop_thread import LoopThread
from starr_engine.distributed.member import Member, Ticket
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.pool import MAX_FAILED_STARTS, end_actor, reason_of
from starr_engine.distributed.replay import DifferentTokensError, Event
from starr_engine.distributed.replica import End, ReplicaInfo
from starr_engine.distributed.routing import choose
from starr_engine.distributed.scaling import Scaler
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import EngineDeadError, ReplicaDiedError, StarrError
from starr_engine.serve.logs import log
from starr_engine.serve.protocol import FleetState

_T = TypeVar("_T")

MAX_DEATHS: Final = 2
"""A request whose replicas have died so often is suspected of it, and is not run again."""

_SCALE_INTERVAL_S: Final = 0.5
_MAX_PAUSE_S: Final = 30.0
"""Between two attempts to start a replica; the first pause is a second, each one twice the last."""

_STATE_TIMEOUT_S: Final = 1.0
"""A replica that has not told its numbers by then is described by those it told before."""

_WARNING: Final = 30


class ReplicaFleet:
    """Keeps a number of replicas alive, in a thread with an event loop of its own.

    All state is of that loop. Other threads use :meth:`submit`, :meth:`cancel`, :meth:`state` and
    :meth:`close`.

    Args:
        options: How many, and how patient.
        start_actor: Starts a ``Replica`` as a Ray actor.
        end_actor: Ends its process, whatever it does.
    """

    def __init__(
        self,
        options: Replicas,
        start_actor: Callable[[], Any],
        end_actor: Callable[[Any], None] = end_actor,
    ) -> None:
        self._options: Final = options
        self._start_actor: Final = start_actor
        self._end_actor: Final = end_actor
        self._keys: Final = itertools.count()
        self._request_keys: Final = itertools.count()
        self._members: Final[dict[int, Member]] = {}
        self._waiting: Final[deque[Ticket]] = deque()
        self._scaler: Scaler | None = None
        self._target = options.count
        self._num_pausing = 0
        self._num_failed_starts = 0
        self._num_deaths = 0
        self._num_reruns = 0
        self._death: EngineDeadError | None = None
        self.first: Final[Future[ReplicaInfo]] = Future()
        """What the first replica that is ready says; fails if none can be started."""

        self._thread: Final = LoopThread(
            "starr-fleet", lambda error: self._die(f"{type(error).__name__}: {error}")
        )
        self._thread.call(self._begin)

    def submit(self, ticket: Ticket) -> None:
        """Run a request; all that happens to it goes to its sink, an error last if it has one."""
        self._thread.call(self._submit, ticket)

    def cancel(self, ticket: Ticket) -> None:
        """End a request that may have ended already."""
        with contextlib.suppress(EngineDeadError):
            self._thread.call(self._cancel, ticket)

    def state(self) -> Future[FleetState]:
        """How the replicas are now; fails with ``EngineDeadError`` if no other will come."""
        future: Future[FleetState] = Future()

        async def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(await self._state())
            except asyncio.CancelledError:
                future.set_exception(self._death)
                raise
            except Exception as error:
                future.set_exception(error)

        self._thread.call(lambda: self._thread.spawn(answer()))
        return future

    def close(self) -> None:
        """End all replicas; unfinished requests get ``EngineDeadError``."""
        self._thread.close(self._close)

    def _begin(self) -> None:
        self._fill()
        self._thread.spawn(self._watch())

    # Requests

    def _submit(self, ticket: Ticket) -> None:
        if self._death is not None:
            ticket.sink(self._death)
            return
        ticket.key = next(self._request_keys)
        self._waiting.append(ticket)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting requests to replicas, if there are any."""
        while self._waiting:
            takers = [member for member in self._members.values() if member.takes_requests]
            if not takers:
                return
            ticket = self._waiting.popleft()
            key = choose([member.load_for(ticket) for member in takers])
            self._thread.spawn(self._give(self._members[key], ticket))

    def _give(self, member: Member, ticket: Ticket) -> Coroutine[Any, Any, None]:
        member.take(ticket)

        async def start() -> None:
            try:
                await member.actor.start.remote(ticket.key, ticket.request)
            except RayError as error:
                self._lose(member, error)
                return
            if ticket.is_cancelled:
                await self._ask(member, member.actor.end.remote(ticket.key))
            ticket.has_begun = True

        ticket.has_begun = False
        return start()

    def _cancel(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif (member := self._members.get(ticket.place)) and member.drop(ticket):
            ticket.is_cancelled = True
            # Ray may run two calls in another order than they are made in: one after the other.
            if ticket.has_begun:
                self._thread.spawn(self._ask(member, member.actor.end.remote(ticket.key)))
            self._retire_if_idle(member)

    async def _ask(self, member: Member, answer: Awaitable[_T]) -> _T | None:
        try:
            return await answer
        except RayError as error:
            self._lose(member, error)
            return None

    def _hear(self, member: Member, key: int, event: Event | End) -> None:
        ticket = member.tickets.get(key)
        if isinstance(event, End) and isinstance(event.error, EngineDeadError):
            self._lose(member, event.error)
        elif ticket is None:  # it was cancelled
            return
        elif isinstance(event, End):
            member.drop(ticket)
            if event.error is not None:
                ticket.sink(event.error)
            self._retire_if_idle(member)
        else:
            try:
                if ticket.replay.is_new(event):
                    member.note(ticket, event)
                    ticket.sink(event)
                    self._retire_if_idle(member)
            except DifferentTokensError:
                self._cancel(ticket)
                ticket.sink(
                    ReplicaDiedError(
                        "the engine that ran this request has died, and another one makes other "
                        "tokens of it than were sent already; send it again"
                    )
                )

    # Replicas

    def _fill(self) -> None:
        """Start what is missing, and let go what is too much."""
        for member in self._members.values():
            if self._target > self._num_staying and member.is_draining:
                member.is_draining = False
        there = [member for member in self._members.values() if not member.is_draining]
        for _ in range(self._target - self._num_staying):
            key = next(self._keys)
            self._members[key] = member = Member(key, self._start_actor())
            log("replica started", replica=member.name)
            self._thread.spawn(self._follow(member))
        there.sort(key=lambda member: (member.info is not None, member.outstanding_tokens))
        for member in there[: max(0, len(there) - self._target)]:
            log("replica drains", replica=member.name)
            member.is_draining = True
            self._retire_if_idle(member)

    @property
    def _num_staying(self) -> int:
        return self._num_pausing + sum(not each.is_draining for each in self._members.values())

    def _retire_if_idle(self, member: Member) -> None:
        if member.is_draining and not member.tickets and member.key in self._members:
            del self._members[member.key]
            self._end_actor(member.actor)
            log("replica ended", replica=member.name)

    async def _follow(self, member: Member) -> None:
        """Hear a replica from its start to its end."""
        try:
            info: ReplicaInfo = await member.actor.load.remote()
            if member.key not in self._members:
                return
            member.become_ready(info)
            log("replica ready", replica=member.name, process_id=info.process_id)
            self._num_failed_starts = 0
            if self._scaler is None:
                self._scaler = Scaler(self._options, info.config.max_num_requests)
                self.first.set_result(info)
            self._dispatch()
            while member.key in self._members:
                for key, event in await member.actor.events.remote():
                    self._hear(member, key, event)
        except RayError as error:
            self._lose(member, error)

    def _lose(self, member: Member, error: Exception) -> None:
        """A replica has died, hangs, or is in an unknown state: another one takes its place."""
        if self._members.pop(member.key, None) is None:
            return  # it was let go, or was lost before
        self._end_actor(member.actor)
        reason = reason_of(error) if isinstance(error, RayError) else str(error)
        log("replica died", _WARNING, replica=member.name, reason=reason)
        self._num_deaths += 1
        tickets = [*member.tickets.values()]
        member.tickets.clear()  # what it still has to say of them is not heard
        for ticket in reversed(tickets):
            self._rerun(ticket)
        pause = 0.0
        if member.info is None:
            self._num_failed_starts += 1
            if self._is_hopeless(error):
                return
            pause = min(2.0 ** (self._num_failed_starts - 1), _MAX_PAUSE_S)
        self._num_pausing += 1
        self._thread.loop.call_later(pause, self._replace)
        self._dispatch()

    def _replace(self) -> None:
        self._num_pausing -= 1
        if self._death is None:
            self._fill()

    def _rerun(self, ticket: Ticket) -> None:
        """Put a request that has lost its replica in front of those that wait, or give it up."""
        ticket.num_deaths += 1
        if ticket.num_deaths == MAX_DEATHS:
            ticket.sink(
                ReplicaDiedError(
                    f"the engine that ran this request has died, {MAX_DEATHS} times over; the "
                    "request may be the reason"
                )
            )
            return
        self._num_reruns += 1
        ticket.replay.restart()
        self._waiting.appendleft(ticket)

    def _is_hopeless(self, error: Exception) -> bool:
        """Whether no replica can be started; then everything ends."""
        if isinstance(error, RayTaskError) and isinstance(error.cause, StarrError):
            cause: StarrError | None = error.cause
        else:
            cause = None
        if any(other.info for other in self._members.values()):
            return False
        if not self.first.done() and cause is not None:
            self.first.set_exception(cause)
        elif self._num_failed_starts < MAX_FAILED_STARTS:
            return False
        text = str(cause) if cause else reason_of(error)
        self._die(f"no replica could be started: {text}")
        return True

    def _die(self, reason: str) -> None:
        """Nothing will run any more."""
        self._death = EngineDeadError(f"{reason}; start the server anew")
        if not self.first.done():
            self.first.set_exception(StarrError(reason))
        self._drop_all()

    def _drop_all(self) -> None:
        left = [*self._waiting]
        self._waiting.clear()
        while self._members:
            _, member = self._members.popitem()
            left += member.tickets.values()
            self._end_actor(member.actor)
        for ticket in left:
            ticket.sink(self._death or EngineDeadError("the engine was closed"))

    async def _watch(self) -> None:
        """Scale every now and then, and check every replica."""
        while self._death is None:
            await asyncio.sleep(_SCALE_INTERVAL_S)
            if self._scaler is None:
                continue
            self._check_all()
            unfinished = len(self._waiting) + sum(
                member.num_requests for member in self._members.values()
            )
            target = self._scaler.target(self._target, unfinished, self._thread.loop.time())
            if target != self._target:
                log("scaling", replicas=target, before=self._target, requests=unfinished)
                self._target = target
                self._fill()

    def _check_all(self) -> None:
        now = self._thread.loop.time()
        for member in self._members.values():
            if member.info and now >= member.next_check:
                member.next_check = math.inf
                self._thread.spawn(self._check(member))

    async def _check(self, member: Member) -> None:
        limit = self._options.check_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._refresh(member)
        except TimeoutError:
            self._lose(member, TimeoutError(f"it has not answered for {limit:g} s"))
        else:
            member.next_check = self._thread.loop.time() + self._options.check_interval_s

    async def _refresh(self, member: Member) -> None:
        stats: EngineStats | None = await self._ask(member, member.actor.stats.remote())
        member.stats = stats or member.stats

    async def _state(self) -> FleetState:
        if self._death is not None:
            raise self._death
        ready = [member for member in self._members.values() if member.info]
        if ready:
            asked = [self._thread.spawn(self._refresh(member)) for member in ready]
            _, late = await asyncio.wait(asked, timeout=_STATE_TIMEOUT_S)
            for task in late:
                task.cancel()
        return FleetState(
            replicas=tuple(member.state for member in self._members.values()),
            num_waiting=len(self._waiting),
            num_deaths=self._num_deaths,
            num_reruns=self._num_reruns,
        )

    def _close(self) -> None:
        self._death = self._death or EngineDeadError(
            "the engine was closed before this request had finished"
        )
        self._drop_all()
