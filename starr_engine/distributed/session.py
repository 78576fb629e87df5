"""The connection to Ray, and what there is room for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any, Final

import ray

from starr_engine.config import EngineConfig
from starr_engine.distributed.options import Workers
from starr_engine.errors import ConfigError, StarrError

CLIENT_SCHEME: Final = "ray://"
"""Of addresses at which Ray's client server answers callers from outside of the cluster."""

OBJECT_STORE_BYTES: Final = 80 * 2**20
"""Ray's least: rows travel in messages, and nothing stays in the store."""


@contextlib.contextmanager
def connected(workers: Workers, engine: EngineConfig) -> Iterator[None]:
    """Use the process's own connection to Ray, or have one for the time being.

    Raises:
        ConfigError: If there is a connection and another one is asked for.
        StarrError: If there is no cluster at the address.
    """
    if ray.is_initialized():
        if workers.address is not None:
            raise ConfigError(
                "this process is connected to Ray already; leave the address out, or call "
                "ray.shutdown() first"
            )
        yield
        return
    try:
        ray.init(**_init_arguments(workers, engine))
    except ConnectionError as error:
        hint = ""
        if (workers.address or "").startswith(CLIENT_SCHEME):
            # The server of Ray's client lets a caller without a token wait until it gives up.
            hint = (
                "; ray:// wants the port of Ray's client server, by default 10001, and, where the "
                "cluster asks for a token, RAY_AUTH_MODE=token and the token of the cluster"
            )
        raise StarrError(f"there is no Ray cluster at {workers.address}: {error}{hint}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _init_arguments(workers: Workers, engine: EngineConfig) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is not None:
        return {"address": workers.address, **quiet}
    per_worker = workers.cpus_per_worker or _share_of_cores(workers.count)
    gpus = {"num_gpus": 0} if workers.gpus_per_worker == 0 or engine.device == "cpu" else {}
    return {
        "address": "local",
        "num_cpus": workers.count * per_worker,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        **gpus,
        **quiet,
    }


def resources(workers: Workers, engine: EngineConfig) -> dict[str, float]:
    """Options ``num_cpus`` and ``num_gpus`` of each actor; needs the connection.

    Raises:
        ConfigError: If the engine's device is not one that a worker can have, or if Ray was
            started here and has too few GPUs.
    """
    device, _, number = engine.device.partition(":")
    if number:
        raise ConfigError(
            f"Ray gives each worker its GPU: use device cuda instead of {engine.device}"
        )
    ranks = engine.tensor_parallel_size
    if ranks > 1 and workers.gpus_per_worker:
        raise ConfigError(
            f"gpus_per_worker is for engines on one GPU; leave it out with tensor_parallel_size="
            f"{ranks}, which takes a GPU for each rank"
        )
    if device == "cpu" and workers.gpus_per_worker:
        raise ConfigError("gpus_per_worker is for device cuda; leave it out with device cpu")
    if device == "cuda" and workers.gpus_per_worker == 0:
        raise ConfigError("device cuda needs gpus_per_worker above 0")
    there = ray.cluster_resources()
    gpus = workers.gpus_per_worker
    if gpus is None:
        wants_gpu = device == "cuda" or (device == "auto" and there.get("GPU", 0) > 0)
        gpus = float(ranks) if wants_gpu else 0.0  # Ray takes those of an actor from one machine
    cpus = workers.cpus_per_worker
    if cpus is None:
        is_alone = not gpus and sum(node["Alive"] for node in ray.nodes()) == 1
        cpus = max(1, int(there.get("CPU", 1)) // workers.count) if is_alone else 1
    wanted = {"num_cpus": float(cpus), "num_gpus": gpus}
    _report_missing(wanted, there, workers)
    return wanted


def _report_missing(wanted: dict[str, float], there: dict[str, float], workers: Workers) -> None:
    lacking = [
        f"{count * workers.count:g} {kind}s, of which Ray has {there.get(kind, 0):g}"
        for kind, count in (("CPU", wanted["num_cpus"]), ("GPU", wanted["num_gpus"]))
        if count * workers.count > there.get(kind, 0)
    ]
    if not lacking:
        return
    problem = f"{workers.count} workers need {' and '.join(lacking)}"
    if workers.address is None:
        raise ConfigError(f"{problem}; ask for fewer workers, or for less for each")
    # A cluster that grows on demand has them later, and the job begins with what there is.
    logging.getLogger(__name__).warning("%s; waiting for the cluster to grow", problem)


def engine_options(engine: EngineConfig, wanted: dict[str, float]) -> dict[str, Any]:
    """Keyword arguments of each worker's ``LLM``."""
    options = {name: getattr(engine, name) for name in engine.__dataclass_fields__}
    if not wanted["num_gpus"]:
        options["device"] = "cpu"
        share = max(1, int(wanted["num_cpus"]) // engine.tensor_parallel_size)
        options["num_threads"] = engine.num_threads or share
    if os.path.isdir(engine.model):
        options["model"] = os.path.abspath(engine.model)  # a worker may have another folder
    return options


def _share_of_cores(count: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // count)
