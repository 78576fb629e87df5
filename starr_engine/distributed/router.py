"""How a handle of Ray Serve chooses a replica: as the ledger of its front says."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from starr_engine.distributed.ledger import Ticket


class LeastWorkRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Sends a ticket to the replica that would be done with it first.

    It is Serve's to make, one for each process that has a handle. What it must know comes with the
    requests, see ``ledger.Ticket``; calls without one go anywhere.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The one replica, or none if all have died, upon which Serve asks again."""
        arguments = () if pending_request is None else pending_request.args
        if not arguments or not isinstance(ticket := arguments[0], Ticket):
            return [candidate_replicas]
        replicas = {each.replica_id.unique_id: each for each in candidate_replicas}
        name = ticket.ledger.place(ticket, list(replicas))
        return [] if name is None else [[replicas[name]]]
