"""``starr-engine serve``: an OpenAI-compatible server with one engine, or several on Ray."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_params,
)
from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams

if TYPE_CHECKING:
    from starr_engine.distributed.options import Replicas
    from starr_engine.serve.config import ServeConfig
    from starr_engine.serve.protocol import Fleet, ServedEngine

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    _add_address(parser)
    _add_access(parser)
    _add_limits(parser)
    _add_observation(parser)
    _add_replicas(parser)
    add_engine_options(parser)
    parser.set_defaults(record_at_start=True)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        StarrError: If a flag, a key file or the model cannot be used, the port is taken, or the
            engine has failed.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the server needs {error.name}: pip install 'starr-engine[serve]'"
        ) from error
    from starr_engine.serve.logs import set_up_logging
    from starr_engine.serve.server import Listening, bind

    listening = Listening(
        host=args.host,
        port=args.port,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        drain_s=args.drain_timeout,
    )
    config = serve_config(args)
    set_up_logging(args.log_level)
    replicas = _replicas(args)
    with bind(listening) as bound:
        from starr_engine.serve.app import make_app
        from starr_engine.serve.server import Server

        with _engine(engine_options(args), replicas) as (engine, fleet):
            Server(make_app(engine, config, fleet), listening).run(sockets=[bound])


@contextmanager
def _engine(
    options: dict[str, Any], replicas: Replicas | None
) -> Iterator[tuple[ServedEngine, Fleet | None]]:
    """The engine, and once more if it stands for several."""
    if replicas is None:
        from starr_engine.async_llm import AsyncLLM

        with closing(AsyncLLM(**options)) as engine:
            yield engine, None
        return
    if find_spec("ray") is None:
        raise ConfigError("several replicas need Ray: pip install 'starr-engine[serve,ray]'")
    from starr_engine.config import EngineConfig
    from starr_engine.distributed.application import serve_replicas

    with serve_replicas(EngineConfig(**options), replicas) as several:
        yield several, several


def _replicas(args: argparse.Namespace) -> Replicas | None:
    """None for one engine in this process."""
    given = {
        "min_count": ("--min-replicas", args.min_replicas),
        "max_count": ("--max-replicas", args.max_replicas),
        "gpus_per_replica": ("--gpus-per-replica", args.gpus_per_replica),
        "cpus_per_replica": ("--cpus-per-replica", args.cpus_per_replica),
        "address": ("--ray-address", args.ray_address),
    }
    if args.replicas is None:
        for flag, value in given.values():
            if value is not None:
                raise ConfigError(f"{flag} goes with --replicas")
        return None
    from starr_engine.distributed.options import Replicas

    return Replicas(
        count=args.replicas,
        upscale_delay_s=args.upscale_delay,
        downscale_delay_s=args.downscale_delay,
        **{name: value for name, (_, value) in given.items()},
    )


def serve_config(args: argparse.Namespace) -> ServeConfig:
    """The server that the flags ask for.

    Raises:
        StarrError: If a value cannot be used, or others could use the server without a key.
    """
    from starr_engine.serve.config import LOOPBACK_HOSTS, ServeConfig
    from starr_engine.serve.keys import read_keys

    keys = read_keys(args.api_key_file, args.api_key_env)
    is_local = args.host in _LOOPBACK
    if not (keys or is_local or args.no_auth):
        raise ConfigError(
            f"on {args.host} others can use this server: give --api-key-file or --api-key-env, or "
            "--no-auth if something in front of it asks who they are"
        )
    allowed = None
    if args.allowed_hosts or is_local:
        allowed = (*LOOPBACK_HOSTS, *(name.lower() for name in args.allowed_hosts))
    defaults = sampling_params(args)
    return ServeConfig(
        served_model=args.served_model_name or args.model,
        # Flags that say nothing leave the word to the checkpoint's own files.
        defaults=None if defaults == SamplingParams() else defaults,
        api_keys=keys,
        allowed_hosts=allowed,
        max_body_bytes=args.max_body_bytes,
        max_requests=args.max_requests,
        max_requests_per_key=args.max_requests_per_key,
        max_choices=args.max_choices,
        request_timeout_s=args.request_timeout,
        log_text=args.log_text,
        has_page=args.page,
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("address")
    group.add_argument("--host", default="127.0.0.1", help="(default: %(default)s, this machine)")
    group.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    group.add_argument(
        "--served-model-name",
        metavar="NAME",
        help="what the model is called in the API (default: as --model)",
    )
    group.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain for HTTPS")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    group.add_argument(
        "--page",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a page to try the model at / (default: on)",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access")
    group.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="API keys, one `NAME KEY` a line"
    )
    group.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable with lines of that form"
    )
    group.add_argument(
        "--no-auth",
        action="store_true",
        help="let everybody who can connect use the server, on other hosts than loopback too",
    )
    group.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        metavar="NAME",
        action="append",
        default=[],
        help="answer to this name in the Host header; repeatable (default: on loopback its own "
        "names, elsewhere all)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    counts = (
        ("--max-requests", 256, "requests that generate or wait; more get 503"),
        ("--max-requests-per-key", 64, "of these, how many of one API key; more get 429"),
        ("--max-choices", 16, "choices of one request: prompts times n"),
        ("--max-body-bytes", 1 << 20, "longest body of a request"),
    )
    for flag, default, text in counts:
        group.add_argument(
            flag, type=int, metavar="N", default=default, help=f"{text} (default: %(default)s)"
        )
    group.add_argument(
        "--request-timeout",
        type=float,
        metavar="SECONDS",
        default=600.0,
        help="a request that still generates then is ended (default: %(default)s)",
    )
    group.add_argument(
        "--drain-timeout",
        type=int,
        metavar="SECONDS",
        default=30,
        help="for running requests to finish after SIGTERM (default: %(default)s)",
    )


def _add_observation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("log")
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="one JSON object a line on standard error; info has a line per request (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--log-text", action="store_true", help="prompts and outputs in these lines, too"
    )


def _add_replicas(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("replicas", "Several engines, on Ray; see docs/serving.md.")
    group.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="engines, each in a process of its own (default: one in this process, without Ray)",
    )
    group.add_argument(
        "--min-replicas", type=int, metavar="N", help="fewest to go down to (default: --replicas)"
    )
    group.add_argument(
        "--max-replicas", type=int, metavar="N", help="most to go up to (default: --replicas)"
    )
    group.add_argument(
        "--upscale-delay",
        type=float,
        metavar="SECONDS",
        default=10.0,
        help="for which more than fits must be there before one is added (default: %(default)s)",
    )
    group.add_argument(
        "--downscale-delay",
        type=float,
        metavar="SECONDS",
        default=300.0,
        help="for which fewer must be enough before some are let go (default: %(default)s)",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a running cluster, e.g. auto (default: start Ray here, for this server)",
    )
    group.add_argument(
        "--gpus-per-replica",
        type=float,
        metavar="SHARE",
        help="0 to 1 (default: 1 with device cuda, or auto where Ray has GPUs; else 0)",
    )
    group.add_argument(
        "--cpus-per-replica",
        type=int,
        metavar="N",
        help="cores (default: 1 with a GPU or on a cluster, else an equal share of those here)",
    )
