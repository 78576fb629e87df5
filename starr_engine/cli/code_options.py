"""The leave to run programs that a model wrote: given by flags alone, never by a file."""

from __future__ import annotations

import argparse

from starr_engine.errors import ConfigError
from starr_engine.study.published.run_code import (
    DEFAULT_MEMORY_BYTES,
    DEFAULT_TIME_S,
    CodeLimits,
)


def add_code_options(parser: argparse.ArgumentParser) -> None:
    """Flags that become ``CodeLimits``."""
    group = parser.add_argument_group("programs")
    group.add_argument("--run-code", action="store_true",
                       help="run programs that the model wrote (HumanEval, MBPP)")  # fmt: skip
    group.add_argument("--code-time", type=float, metavar="SECONDS", default=DEFAULT_TIME_S,
                       help="for each program (default: %(default)g)")  # fmt: skip
    group.add_argument("--code-memory", type=int, metavar="MIB",
                       default=DEFAULT_MEMORY_BYTES // 2**20,
                       help="default: %(default)g")  # fmt: skip
    group.add_argument("--code-network", action="store_true",
                       help="run them also where the kernel cannot fence them off: with the "
                       "network and your rights on files")  # fmt: skip


def code_limits(args: argparse.Namespace) -> CodeLimits | None:
    """What the flags allow programs; None without ``--run-code``.

    Raises:
        ConfigError: If a limit cannot be used, or the network is allowed to nothing.
    """
    if not args.run_code:
        if args.code_network:
            raise ConfigError("--code-network means nothing without --run-code")
        return None
    return CodeLimits(
        time_s=args.code_time,
        memory_bytes=args.code_memory * 2**20,
        allow_network=args.code_network,
    )


def code_words(args: argparse.Namespace) -> list[str]:
    """The flags as they were typed, those at their defaults left out."""
    words = [f"--{name.replace('_', '-')}" for name in ("run_code", "code_network")
             if getattr(args, name)]  # fmt: skip
    if args.code_time != DEFAULT_TIME_S:
        words += ["--code-time", f"{args.code_time:g}"]
    if args.code_memory != DEFAULT_MEMORY_BYTES // 2**20:
        words += ["--code-memory", str(args.code_memory)]
    return words
