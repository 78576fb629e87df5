"""One replica as the server sees it, and the requests that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starr_engine.distributed.replay import Event, Replay
from starr_engine.distributed.replica import EncodedRequest, ReplicaInfo
from starr_engine.distributed.routing import Load, PrefixMemory, page_chain, request_tokens
from starr_engine.engine.stats import EngineStats
from starr_engine.outputs import BlockOutput, RequestOutput
from starr_engine.serve.protocol import Phase, ReplicaState


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request on its way through the replicas."""

    request: EncodedRequest
    sink: Callable[[Event | Exception], None]
    """Called in the fleet's thread; must not block."""

    prompt_tokens: int
    new_tokens: int
    """To generate at most, of all samples."""

    num_requests: int
    """Of the engine: samples, or gap lengths."""

    chain: Sequence[int] = ()
    """Of ``routing.page_chain``; empty where no prefix is shared."""

    key: int = -1
    """Given by the fleet, counted over all its requests."""

    place: int = -1
    """Key of the replica that it was given to."""

    remaining_tokens: int = 0
    """Of the outstanding tokens of that replica."""

    has_begun: bool = False
    """Whether that replica has taken it in."""

    is_cancelled: bool = False
    num_ended: int = 0
    """Of its ``num_requests``, those whose output was given."""

    num_deaths: int = 0
    replay: Replay = field(default_factory=Replay)


class Member:
    """One replica, from its start to its end.

    Args:
        key: Counted over all replicas of the server.
        actor: A ``Replica`` of Ray.
    """

    def __init__(self, key: int, actor: Any) -> None:
        self.key: Final = key
        self.name: Final = str(key)
        self.actor: Final = actor
        self.tickets: Final[dict[int, Ticket]] = {}
        self.info: ReplicaInfo | None = None
        self.is_draining = False
        self.stats: EngineStats | None = None
        self.next_check = 0.0
        self._prefixes = PrefixMemory(0)

    def become_ready(self, info: ReplicaInfo) -> None:
        """Its model is loaded."""
        self.info = info
        self._prefixes = PrefixMemory(info.config.num_pages)

    @property
    def takes_requests(self) -> bool:
        """Whether it is ready and is to stay."""
        return self.info is not None and not self.is_draining

    @property
    def outstanding_tokens(self) -> int:
        """Of its unfinished requests."""
        return sum(ticket.remaining_tokens for ticket in self.tickets.values())

    @property
    def num_requests(self) -> int:
        """Unfinished, of the engine."""
        return sum(ticket.num_requests for ticket in self.tickets.values())

    def load_for(self, ticket: Ticket) -> Load:
        """What routing sees of it."""
        return Load(
            key=self.key,
            outstanding_tokens=self.outstanding_tokens,
            num_requests=self.num_requests,
            cached_tokens=self._cached_tokens(ticket),
        )

    def take(self, ticket: Ticket) -> None:
        """It is given a request."""
        missing = ticket.prompt_tokens - self._cached_tokens(ticket)
        ticket.remaining_tokens = request_tokens(missing, ticket.new_tokens)
        ticket.place = self.key
        self.tickets[ticket.key] = ticket
        self._prefixes.note(ticket.chain)

    def drop(self, ticket: Ticket) -> bool:
        """It has a request no longer; whether it had it."""
        return self.tickets.pop(ticket.key, None) is not None

    def note(self, ticket: Ticket, event: Event) -> None:
        """Take in what has happened to a request of its own."""
        if isinstance(event, BlockOutput):
            # The last tokens stay outstanding until the request has ended.
            left = ticket.remaining_tokens - len(event.token_ids)
            ticket.remaining_tokens = max(1, left)
            return
        if not isinstance(event, RequestOutput):
            return
        ticket.num_ended += 1
        if ticket.num_ended == ticket.num_requests:
            self.drop(ticket)
        if ticket.chain and self.info:
            # The next turn of a conversation begins with this one.
            tokens = (*event.prompt_token_ids, *event.token_ids)
            salt = ticket.request.params.cache_salt
            self._prefixes.note(page_chain(tokens, self.info.config.page_size, salt))

    @property
    def state(self) -> ReplicaState:
        """For the metrics."""
        return ReplicaState(
            name=self.name,
            phase=self._phase,
            num_requests=self.num_requests,
            outstanding_tokens=self.outstanding_tokens,
            stats=self.stats,
        )

    @property
    def _phase(self) -> Phase:
        if self.info is None:
            return "starting"
        return "draining" if self.is_draining else "ready"

    def _cached_tokens(self, ticket: Ticket) -> int:
        if not ticket.chain or self.info is None:
            return 0
        return self._prefixes.num_known(ticket.chain) * self.info.config.page_size
