"""How many replicas there should be. Knows nothing of Ray."""

from __future__ import annotations

from typing import Final

from starr_engine.distributed.options import Replicas


class Scaler:
    """Follows the number of unfinished requests, slowly.

    A replica is wanted for each full batch of requests. More than there are must be wanted for
    ``upscale_delay_s`` on end, and fewer for ``downscale_delay_s``; of what was wanted in that
    time, the least change is made.

    Args:
        options: Limits and delays.
        batch_size: Requests that an engine runs at once.
    """

    def __init__(self, options: Replicas, batch_size: int) -> None:
        self._options: Final = options
        self._batch_size: Final = batch_size
        self._since: float | None = None
        self._direction = 0
        self._wanted = 0

    def target(self, current: int, num_requests: int, now: float) -> int:
        """The number to have from now on.

        Args:
            current: That was to be had until now.
            num_requests: Unfinished, those that wait for a replica included.
            now: Seconds on a clock that never goes back.
        """
        low, high = self._options.limits
        wanted = min(max(-(-num_requests // self._batch_size), low), high)
        direction = (wanted > current) - (wanted < current)
        if direction != self._direction or self._since is None:
            self._direction, self._since, self._wanted = direction, now, wanted
        self._wanted = (min if direction > 0 else max)(self._wanted, wanted)
        options = self._options
        delay = options.upscale_delay_s if direction > 0 else options.downscale_delay_s
        if not direction or now - self._since < delay:
            return current
        self._since = None
        return self._wanted
