"""The flags of commands that can run on several engines."""

from __future__ import annotations

import argparse

from starr_engine.distributed import Workers
from starr_engine.errors import ConfigError


def add_worker_options(parser: argparse.ArgumentParser, page: str) -> None:
    """The flags; ``page`` says more about them."""
    group = parser.add_argument_group("workers", f"Several engines, on Ray; see {page}.")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="engines, each in a process of its own (default: one in this process, without Ray)",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a running cluster, e.g. auto (default: start Ray here, for this job)",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="0 to 1 (default: 1 with device cuda, or auto where Ray has GPUs; else 0)",
    )
    group.add_argument(
        "--cpus-per-worker",
        type=int,
        metavar="N",
        help="cores (default: 1 with a GPU or on a cluster, else an equal share of those here)",
    )


def asked_workers(args: argparse.Namespace) -> Workers | None:
    """None for a job in this process.

    Raises:
        ConfigError: If a flag needs another one, or its value is out of range.
    """
    flags = ("ray_address", "gpus_per_worker", "cpus_per_worker")
    if args.workers is None:
        for name in flags:
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} goes with --workers")
        return None
    return Workers(
        count=args.workers,
        address=args.ray_address,
        gpus_per_worker=args.gpus_per_worker,
        cpus_per_worker=args.cpus_per_worker,
    )
