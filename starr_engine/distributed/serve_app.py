"""The server as an application of Ray Serve, for clusters: ``build`` is what Serve is pointed to.

    serve run starr_engine.distributed.serve_app:build model=tiny-sdar replicas=2 no_auth=true

Serve's proxies take HTTP and hand it to the front, a deployment of its own with the same app as
``starr-engine serve``; the front gives requests to the replicas as that command does.
"""

# No postponed annotations here: Serve makes the arguments of `build` by the class of its parameter.

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from starr_engine.config import EngineConfig
from starr_engine.distributed.deployment import engine_deployment
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.replicated import ReplicatedLLM
from starr_engine.distributed.session import resources
from starr_engine.errors import ConfigError, EngineDeadError
from starr_engine.params import SamplingParams
from starr_engine.serve.app import make_app
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.keys import read_keys
from starr_engine.serve.logs import set_up_logging

FRONT: Final = "Front"

_DRAIN_S: Final = 30.0
"""Of a front that is let go, as ``--drain-timeout``."""


class AppArgs(BaseModel):
    """Arguments of the application; ``starr-engine serve`` has flags that mean the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "tiny-llada"
    device: str = "auto"
    """On a cluster that has its GPUs only when they are asked for, say ``cuda``."""

    tensor_parallel_size: int = 1
    engine: dict[str, Any] = Field(default_factory=dict)
    """More fields of ``EngineConfig``."""

    replicas: int = 1
    min_replicas: int | None = None
    max_replicas: int | None = None
    gpus_per_replica: float | None = None
    cpus_per_replica: int | None = None
    upscale_delay: float = 10.0
    downscale_delay: float = 300.0

    fronts: int = 1
    """Processes that take HTTP requests; each needs a core. Each weighs what it has sent itself."""

    served_model_name: str | None = None
    api_key_file: Path | None = None
    """On the machine of each front."""

    api_key_env: str | None = None
    """Variable in the environment of each front."""

    no_auth: bool = False
    """Without keys the application does not start unless this says that something in front of it
    knows who asks: Serve's proxies may listen on all addresses."""

    sampling: dict[str, Any] = Field(default_factory=dict)
    """Fields of ``SamplingParams`` for requests that do not say otherwise."""

    limits: dict[str, Any] = Field(default_factory=dict)
    """More fields of ``ServeConfig``, such as ``max_requests``; of each front."""


def build(args: AppArgs) -> serve.Application:
    """Make the application; Ray must be connected.

    Raises:
        ConfigError: If an argument cannot be used, or others could use the server without a key.
    """
    if not (args.api_key_file or args.api_key_env or args.no_auth):
        raise ConfigError(
            "others can use this application: give api_key_file or api_key_env, or no_auth=true if "
            "something in front of it asks who they are"
        )
    engine = EngineConfig.from_options(
        model=args.model,
        device=args.device,
        tensor_parallel_size=args.tensor_parallel_size,
        **args.engine,
    )
    replicas = Replicas(
        count=args.replicas,
        min_count=args.min_replicas,
        max_count=args.max_replicas,
        gpus_per_replica=args.gpus_per_replica,
        cpus_per_replica=args.cpus_per_replica,
        upscale_delay_s=args.upscale_delay,
        downscale_delay_s=args.downscale_delay,
        address="auto",
    )
    config = ServeConfig(
        served_model=args.served_model_name or args.model,
        defaults=SamplingParams(**args.sampling) if args.sampling else None,
        allowed_hosts=None,
        **args.limits,
    )
    engines = engine_deployment(engine, replicas, resources(replicas.workers, engine))
    front: Any = serve.deployment(
        serve.ingress()(Front),
        name=FRONT,
        num_replicas=args.fronts,
        # Beside those that generate, so that the front can refuse the rest itself.
        max_ongoing_requests=2 * config.max_requests,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={"num_cpus": 1},
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    application: serve.Application = front.bind(
        engines, config, args.api_key_file, args.api_key_env
    )
    return application


class Front:
    """Takes HTTP requests from Serve's proxies.

    Args:
        engines: Handle of the deployment of replicas.
        config: Of the server, without its keys.
        key_file: As for ``keys.read_keys``; so is the next one.
        key_variable: Of the environment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        engines: DeploymentHandle[Any],
        config: ServeConfig,
        key_file: Path | None,
        key_variable: str | None,
    ) -> None:
        set_up_logging("info")
        keys = read_keys(key_file, key_variable)
        info = await engines.options(method_name="info").remote()
        if isinstance(info, ConfigError):
            raise info
        llm = ReplicatedLLM(engines, info, serve.get_replica_context().app_name)
        self._app: Final = make_app(llm, replace(config, api_keys=keys), llm)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve asks for the app."""
        return self._app

    def check_health(self) -> None:
        """Called by Serve.

        Raises:
            EngineDeadError: If no replica lives and none will.
        """
        if self._app.state.engine_died.is_set():
            raise EngineDeadError("the engines of this front have ended")
