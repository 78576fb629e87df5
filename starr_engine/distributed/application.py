"""Replicas for one process: a Ray Serve application that begins and ends with it."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from starr_engine.config import EngineConfig
from starr_engine.distributed.deployment import engine_deployment
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.ownership import Owner, end_application
from starr_engine.distributed.replica import ReplicaInfo
from starr_engine.distributed.replicated import ReplicatedLLM
from starr_engine.distributed.session import CLIENT_SCHEME, connected, resources
from starr_engine.errors import ConfigError, StarrError
from starr_engine.offline.signals import StopSignals

_WAIT_S: Final = 0.2
"""So often it is looked whether a signal has come while the first replica starts."""


@contextlib.contextmanager
def serve_replicas(
    engine: EngineConfig | None = None, replicas: Replicas | None = None
) -> Iterator[ReplicatedLLM]:
    """A model that several engines serve; the block begins when the first of them is ready.

    The replicas are an application of Ray Serve with a name of its own. It has no HTTP: whoever
    uses the model is its front. At the end of the block, and of the process, it is deleted.

    Args:
        engine: Of each replica; None takes the defaults.
        replicas: How many, and with what; None is one.

    Raises:
        ConfigError: If Ray has too little, or the model or an option cannot be used.
        StarrError: If there is no cluster, no replica lives to load its model, or SIGINT or SIGTERM
            comes first.

    Example:
        >>> with serve_replicas(EngineConfig(model="tiny-sdar"), Replicas(count=2)) as llm:
        ...     output = asyncio.run(llm.generate("Sort: 5 3 9"))
    """
    engine, replicas = engine or EngineConfig(), replicas or Replicas()
    if (replicas.address or "").startswith(CLIENT_SCHEME):
        # A handle of Ray's client routes in the client server, and breaks there.
        raise ConfigError(
            f"replicas cannot be served through {replicas.address}: run this on a machine of the "
            "cluster, with the address auto or the HOST:PORT of its head, or deploy "
            "starr_engine.distributed.serve_app:build there"
        )
    with contextlib.ExitStack() as opened:
        opened.enter_context(connected(replicas.workers, engine))
        wanted = resources(replicas.workers, engine)
        # It writes for people, on the standard error that has one JSON object a line.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        owner: Any = Owner.remote()  # type: ignore[attr-defined]
        name = f"starr-engine-{uuid.uuid4().hex[:8]}"
        opened.callback(end_application, name)
        (handle,) = serve.run_many(
            [
                serve.RunTarget(
                    target=engine_deployment(engine, replicas, wanted, owner),
                    name=name,
                    route_prefix=None,
                )
            ],
            wait_for_applications_running=False,
        )
        yield ReplicatedLLM(handle, _first_info(handle, name), name)


def _first_info(handle: DeploymentHandle[Any], name: str) -> ReplicaInfo:
    """What the first replica says; waited for as long as it takes, or until a signal comes."""
    with StopSignals() as stop:
        asked = handle.options(method_name="info").remote()
        while stop.received is None:
            try:
                info = asked.result(timeout_s=_WAIT_S)
            except TimeoutError:
                application = serve.status().applications[name]
                if application.status == ApplicationStatus.DEPLOY_FAILED:
                    raise StarrError(_why(application)) from None
            except (RayError, DeploymentUnavailableError):  # it has died; there will be another
                asked = handle.options(method_name="info").remote()
                time.sleep(_WAIT_S)
            else:
                if isinstance(info, ConfigError):
                    raise info
                assert isinstance(info, ReplicaInfo)
                return info
    raise StarrError(f"{stop.received.name} came before a replica had loaded its model")


def _why(application: Any) -> str:
    """Of a deployment that failed, without the stack traces in its message."""
    message = "; ".join(each.message for each in application.deployments.values())
    last = [line for line in message.splitlines() if line.strip()][-1:]
    return f"no replica could be started: {''.join(last)}"
