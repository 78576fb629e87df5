"""The deployment of replicas: what Ray Serve is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from starr_engine.config import EngineConfig
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.replica import Replica
from starr_engine.distributed.router import LeastWorkRouter
from starr_engine.distributed.session import engine_options

DEPLOYMENT: Final = "Engine"

_MAX_ONGOING: Final = 1 << 16
"""The engine has a queue of its own, and the fronts have limits."""

_LOAD_PATIENCE_S: Final = 10.0
"""What Serve waits longer than a replica, which ends itself if its engine hangs."""

_DRAIN_POLL_S: Final = 0.5


def engine_deployment(
    engine: EngineConfig,
    replicas: Replicas,
    wanted: Mapping[str, float],
    owner: Any | None = None,
) -> serve.Application:
    """Replicas of an engine.

    Args:
        engine: Of each.
        replicas: How many, and how patient.
        wanted: CPUs and GPUs of each, as ``session.resources`` has them.
        owner: As for ``Replica``.
    """
    low, high = replicas.limits
    count: dict[str, Any] = {"num_replicas": replicas.count}
    if low < high:
        count = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=low,
                initial_replicas=replicas.count,
                max_replicas=high,
                target_ongoing_requests=engine.max_num_requests,
                upscale_delay_s=replicas.upscale_delay_s,
                downscale_delay_s=replicas.downscale_delay_s,
            )
        }
    deployment: Any = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        max_ongoing_requests=_MAX_ONGOING,
        health_check_period_s=replicas.check_interval_s,
        health_check_timeout_s=replicas.check_timeout_s + _LOAD_PATIENCE_S,
        graceful_shutdown_wait_loop_s=_DRAIN_POLL_S,
        graceful_shutdown_timeout_s=replicas.drain_timeout_s,
        request_router_config=RequestRouterConfig(request_router_class=LeastWorkRouter),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        **_placing(engine.tensor_parallel_size, wanted),
        **count,
    )
    application: serve.Application = deployment.bind(
        engine_options(engine, dict(wanted)), replicas.check_timeout_s, owner
    )
    return application


def _placing(ranks: int, wanted: Mapping[str, float]) -> dict[str, Any]:
    """One actor, or a placement group with a bundle for each rank of a split model."""
    if ranks == 1:
        return {"ray_actor_options": dict(wanted)}
    cpus, gpus = wanted["num_cpus"] / ranks, wanted["num_gpus"] / ranks
    bundle = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    return {
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "placement_group_bundles": [bundle] * ranks,
        # Ranks talk over sockets of one machine.
        "placement_group_strategy": "STRICT_PACK",
    }
