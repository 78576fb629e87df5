"""How many workers, and what each of them gets."""

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
    """At most 1, because an engine runs on one GPU; a fraction shares it between workers. None is
    1 where the engine's device is CUDA, or ``auto`` and Ray has GPUs; else 0."""

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


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
