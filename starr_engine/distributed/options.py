"""How many workers or replicas, and what each of them gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starr_engine.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Engines of a distributed job; each is a Ray actor with a process of its own.

    Raises:
        ConfigError: If a value is out of range; names all of them at once.
    """

    count: int = 1

    gpus_per_worker: float | None = None
    """At most 1; a fraction shares a GPU between workers. None is 1, or one for each rank of a
    split model, where the engine's device is CUDA, or ``auto`` and Ray has GPUs; else 0."""

    cpus_per_worker: int | None = None
    """Cores, and without a GPU also the threads of the engine. None is 1 with a GPU or on a
    cluster, else an equal share of the machine's cores."""

    address: str | None = None
    """Of a running Ray cluster, such as ``auto`` or ``ray://head:10001``; None uses the connection
    that the process has, or else starts Ray on this machine for as long as the job runs."""

    def __post_init__(self) -> None:
        problems = []
        if not _is_whole(self.count) or self.count < 1:
            problems.append(f"the number of workers must be an integer >= 1, got {self.count!r}")
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        if cpus is not None and (not _is_whole(cpus) or cpus < 1):
            problems.append(f"cpus_per_worker must be an integer >= 1, got {cpus!r}")
        if gpus is not None and not (
            isinstance(gpus, int | float) and math.isfinite(gpus) and 0 <= gpus <= 1
        ):
            problems.append(
                f"gpus_per_worker must be a number from 0 to 1, as an engine runs on one GPU, "
                f"got {gpus!r}"
            )
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            problems.append(f"the address must name a Ray cluster, got {self.address!r}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Engines behind one server; each is a replica of a Ray Serve deployment, with its own process.

    Raises:
        ConfigError: If a value is out of range; names all of them at once.
    """

    count: int = 1
    """At the start."""

    min_count: int | None = None
    """Fewest to go down to when there is little to do; None is ``count``."""

    max_count: int | None = None
    """Most to go up to when there is much to do; None is ``count``."""

    gpus_per_replica: float | None = None
    """As ``Workers.gpus_per_worker``."""

    cpus_per_replica: int | None = None
    """As ``Workers.cpus_per_worker``."""

    address: str | None = None
    """As ``Workers.address``, but not ``ray://``."""

    upscale_delay_s: float = 10.0
    """Seconds for which Serve must want more replicas before it adds them: it wants one for each
    ``max_num_requests`` of the mean number of unfinished requests in the last 30 s."""

    downscale_delay_s: float = 300.0
    """Seconds for which fewer replicas must be enough before some are taken away."""

    drain_timeout_s: float = 600.0
    """Seconds that a replica which is taken away has to finish its requests; what is left then runs
    again on another one."""

    check_interval_s: float = 2.0
    """Seconds between two questions after a replica's health: a dead one is replaced so late."""

    check_timeout_s: float = 60.0
    """Seconds that it has to answer, between two steps, before it is ended and replaced."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be an integer >= 1, got {value!r}"
            for name in ("count", "min_count", "max_count")
            if (value := getattr(self, name)) is not None and (not _is_whole(value) or value < 1)
        ]
        problems += [
            f"{name} must be a finite number of seconds > 0, got {value!r}"
            for name in (
                "upscale_delay_s", "downscale_delay_s", "drain_timeout_s", "check_interval_s",
                "check_timeout_s",
            )
            if not isinstance(value := getattr(self, name), int | float)
            or isinstance(value, bool)
            or not (math.isfinite(value) and value > 0)
        ]  # fmt: skip
        if not problems:
            low, high = self.limits
            if not low <= self.count <= high:
                problems.append(
                    f"the number of replicas must be from min_count to max_count, "
                    f"got {self.count} and {low} to {high}"
                )
            try:
                self.workers  # noqa: B018  # checks the rest
            except ConfigError as error:
                problems.append(str(error).replace("_per_worker", "_per_replica"))
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def limits(self) -> tuple[int, int]:
        """Fewest and most."""
        return self.min_count or self.count, self.max_count or self.count

    @property
    def workers(self) -> Workers:
        """What Ray must have room for."""
        return Workers(
            count=self.limits[1],
            gpus_per_worker=self.gpus_per_replica,
            cpus_per_worker=self.cpus_per_replica,
            address=self.address,
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
