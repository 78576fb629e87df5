"""A request that runs again because its replica has died: what was given is not given twice."""

from __future__ import annotations

from starr_engine.outputs import BlockOutput, ProvisionalOutput, RequestOutput

Event = BlockOutput | ProvisionalOutput | RequestOutput


class DifferentTokensError(Exception):
    """A second run has not made the tokens of the first."""


class Replay:
    """Remembers what a request has given, and takes it out of the events of its next run.

    The engine's tokens depend on the request alone, so a second run gives the same blocks. They are
    compared, because kernels may round in another way when the batch is another one.
    """

    def __init__(self) -> None:
        self._given: dict[str, list[tuple[int, ...]]] = {}
        self._num_again: dict[str, int] = {}
        self._ended: set[str] = set()

    def restart(self) -> None:
        """The request runs from its start again."""
        self._num_again = dict.fromkeys(self._given, 0)

    def is_new(self, event: Event) -> bool:
        """Note an event, and say whether it is to be given.

        Raises:
            DifferentTokensError: If it contradicts what an earlier run has given.
        """
        name = event.request_id
        if isinstance(event, RequestOutput):
            if self._num_again.get(name, 0) < len(self._given.get(name, ())):
                raise DifferentTokensError
            is_new = name not in self._ended
            self._ended.add(name)
            return is_new
        given = self._given.setdefault(name, [])
        num_again = self._num_again.get(name, len(given))
        if isinstance(event, ProvisionalOutput):
            return num_again == len(given) and name not in self._ended
        self._num_again[name] = num_again + 1
        if num_again == len(given):
            if name in self._ended:
                raise DifferentTokensError
            given.append(event.token_ids)
            return True
        if given[num_again] != event.token_ids:
            raise DifferentTokensError
        return False
