"""What one front has given to replicas, and where the next request goes. Knows nothing of Ray."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starr_engine.distributed.replay import Event
from starr_engine.distributed.replica import EncodedRequest
from starr_engine.distributed.routing import (
    Load,
    PrefixMemory,
    choose,
    page_chain,
    request_tokens,
)
from starr_engine.outputs import BlockOutput, RequestOutput


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request on its way to a replica: there it arrives as its ``request`` alone.

    Serve gives the arguments of a call to the router that chooses the replica, so that a request
    that knows the ledger of its front is all that the two need to have in common.
    """

    request: EncodedRequest
    ledger: Ledger
    prompt_tokens: int
    new_tokens: int
    """To generate at most, of all samples."""

    num_requests: int
    """Of the engine: samples, or gap lengths."""

    chain: Sequence[int] = ()
    """Of ``routing.page_chain``; empty where no prefix is shared."""

    place: str | None = None
    """Name of the replica that it was given to."""

    remaining_tokens: int = 0
    """Of the outstanding tokens of that replica."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.request,)


def _itself(request: EncodedRequest) -> EncodedRequest:
    return request


@dataclass(slots=True)
class _Replica:
    """What is known of one."""

    key: int
    prefixes: PrefixMemory
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def outstanding_tokens(self) -> int:
        return sum(ticket.remaining_tokens for ticket in self.tickets)

    @property
    def num_requests(self) -> int:
        return sum(ticket.num_requests for ticket in self.tickets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """Of one replica, by what one front has given it."""

    num_requests: int
    tokens: int


class Ledger:
    """Counts the outstanding tokens of every replica; threads may share it.

    A replica that has died is chosen no more, though it takes Serve a moment to notice.

    Args:
        page_size: Rows of a page of the engines.
        num_pages: Of each engine.
    """

    def __init__(self, page_size: int, num_pages: int) -> None:
        self._page_size: Final = page_size
        self._num_pages: Final = num_pages
        self._lock: Final = threading.Lock()
        self._open: Final[set[Ticket]] = set()
        self._replicas: Final[dict[str, _Replica]] = {}
        self._dead: Final[set[str]] = set()
        self._num_seen = 0

    @property
    def num_waiting(self) -> int:
        """Requests that no replica has been chosen for."""
        with self._lock:
            return sum(ticket.place is None for ticket in self._open)

    @property
    def num_deaths(self) -> int:
        """Replicas that died while they had requests."""
        with self._lock:
            return len(self._dead)

    def outstanding(self, name: str) -> Outstanding:
        """What a replica has to do."""
        with self._lock:
            if (replica := self._replicas.get(name)) is None:
                return Outstanding(num_requests=0, tokens=0)
            return Outstanding(num_requests=replica.num_requests, tokens=replica.outstanding_tokens)

    def begin(self, ticket: Ticket) -> None:
        """A request waits for a replica."""
        with self._lock:
            self._open.add(ticket)

    def place(self, ticket: Ticket, names: Sequence[str]) -> str | None:
        """Choose a replica for a request; it leaves the one that it had.

        Args:
            ticket: If it has ended meanwhile, any replica will do, and nothing is counted.
            names: Of all replicas that take requests.

        Returns:
            The replica's name; None if all of them are dead.
        """
        with self._lock:
            self._forget_all_but(names)
            living = [name for name in names if name not in self._dead]
            self._take_away(ticket)
            if not living:
                return None
            return self._give(ticket, living) if ticket in self._open else living[0]

    def note(self, ticket: Ticket, event: Event) -> None:
        """Take in what has happened to a request."""
        with self._lock:
            if isinstance(event, BlockOutput):
                # The last tokens stay outstanding until the request has ended.
                left = ticket.remaining_tokens - len(event.token_ids)
                ticket.remaining_tokens = max(1, left)
            elif isinstance(event, RequestOutput) and ticket.chain:
                if (replica := self._replicas.get(ticket.place or "")) is None:
                    return
                # The next turn of a conversation begins with this one.
                tokens = (*event.prompt_token_ids, *event.token_ids)
                salt = ticket.request.params.cache_salt
                replica.prefixes.note(page_chain(tokens, self._page_size, salt))

    def lose(self, ticket: Ticket, *, is_dead: bool) -> None:
        """The replica of a request does not answer any more; the request waits for another one.

        Args:
            ticket: The request.
            is_dead: Whether the replica is known to be dead, and not only out of reach.
        """
        with self._lock:
            if is_dead and ticket.place is not None:
                self._dead.add(ticket.place)
            self._take_away(ticket)

    def end(self, ticket: Ticket) -> None:
        """A request is over, wherever it was."""
        with self._lock:
            self._open.discard(ticket)
            self._take_away(ticket)

    def _give(self, ticket: Ticket, names: Sequence[str]) -> str:
        loads = {name: self._load(ticket, name) for name in names}
        key = choose(list(loads.values()))
        name = next(name for name, load in loads.items() if load.key == key)
        missing = ticket.prompt_tokens - loads[name].cached_tokens
        ticket.remaining_tokens = request_tokens(missing, ticket.new_tokens)
        ticket.place = name
        self._replicas[name].tickets.append(ticket)
        self._replicas[name].prefixes.note(ticket.chain)
        return name

    def _load(self, ticket: Ticket, name: str) -> Load:
        if (replica := self._replicas.get(name)) is None:
            replica = _Replica(self._num_seen, PrefixMemory(self._num_pages))
            self._replicas[name] = replica
            self._num_seen += 1
        return Load(
            key=replica.key,
            outstanding_tokens=replica.outstanding_tokens,
            num_requests=replica.num_requests,
            cached_tokens=replica.prefixes.num_known(ticket.chain) * self._page_size,
        )

    def _take_away(self, ticket: Ticket) -> None:
        if ticket.place is not None:
            self._replicas[ticket.place].tickets.remove(ticket)
        ticket.place = None

    def _forget_all_but(self, names: Sequence[str]) -> None:
        gone = [
            name
            for name, replica in self._replicas.items()
            if name not in names and not replica.tickets
        ]
        for name in gone:
            del self._replicas[name]
