"""What a benchmark asks of an engine: prompts, and when they come."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """One request of a load."""

    token_ids: tuple[int, ...]
    """The prompt."""

    params: SamplingParams

    due_s: float = 0.0
    """When it comes, in seconds from the beginning; not used in a closed loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests in the order in which they come.

    Raises:
        ConfigError: If there is no request, ``concurrency`` is below 1, or times go back.
    """

    requests: tuple[LoadRequest, ...]

    concurrency: int | None = None
    """A closed loop: so many requests are unfinished at any time, and the next one comes when one
    ends. None is an open loop: each comes when it is due, however many are unfinished."""

    def __post_init__(self) -> None:
        if not self.requests:
            raise ConfigError("a benchmark needs at least one prompt")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {self.concurrency}")
        due = [request.due_s for request in self.requests]
        if any(later < earlier for earlier, later in itertools.pairwise(due)):
            raise ConfigError("requests must be in the order in which they are due")


def random_prompts(
    count: int,
    lengths: tuple[int, int],
    *,
    vocab_size: int,
    excluded_ids: Sequence[int],
    seed: int,
) -> list[tuple[int, ...]]:
    """Prompts of random tokens; no two begin alike, so that no cache finds anything.

    Args:
        count: Prompts.
        lengths: Least and largest length, both included, drawn uniformly.
        vocab_size: Ids are below it.
        excluded_ids: Mask and ending tokens.
        seed: Equal seeds give equal prompts.

    Raises:
        ConfigError: If lengths are below 1 or in the wrong order, or no id is left.
    """
    least, most = lengths
    if not 1 <= least <= most:
        raise ConfigError(f"prompt lengths must be at least 1, least first, got {least}:{most}")
    allowed = [number for number in range(vocab_size) if number not in set(excluded_ids)]
    if not allowed:
        raise ConfigError(f"no token is left of a vocabulary of {vocab_size}")
    drawn = random.Random(f"prompts/{seed}")
    return [tuple(drawn.choices(allowed, k=drawn.randint(least, most))) for _ in range(count)]


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which requests come that do not know of each other, ascending.

    Args:
        count: Requests.
        rate: How many come in a second on average.
        seed: Equal seeds give equal times; another rate stretches them.

    Raises:
        ConfigError: If the rate is not above 0.
    """
    if not 0 < rate < float("inf"):
        raise ConfigError(f"the arrival rate must be above 0 requests a second, got {rate}")
    drawn = random.Random(f"arrivals/{seed}")
    return list(itertools.accumulate(drawn.expovariate(1.0) / rate for _ in range(count)))
