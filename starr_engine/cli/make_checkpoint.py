"""``starr-engine make-checkpoint``: a random checkpoint in a published format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from starr_engine.errors import ConfigError
from starr_engine.make_checkpoint.published import ARCHITECTURES, published_model, published_sizes
from starr_engine.memory_size import parse_memory_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="whose format")
    parser.add_argument("--list", action="store_true", help="show the sizes of each, and end")
    parser.add_argument(
        "--size", default="tiny", help="a published size, such as 8b, or tiny (default: tiny)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder to make")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32", "float16"),
        default="bfloat16",
        help="of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random weights (default: %(default)s)"
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        default="5GB",
        help="most bytes of a file of weights (default: %(default)s)",
    )
    parser.add_argument(
        "--no-weights",
        action="store_true",
        help="write configuration and tokenizer only, for --load-format dummy",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ConfigError: If there is no such size, or the folder is not empty.
        CapacityError: If the disk has too little room.
    """
    if args.list:
        for architecture in sorted(ARCHITECTURES):
            print(f"{architecture}: {', '.join(published_sizes(architecture))}")
        return
    if args.arch is None or args.out is None:
        raise ConfigError("give --arch and --out; --list shows architectures and their sizes")
    if args.seed < 0:
        raise ConfigError(f"--seed must be 0 or above, got {args.seed}")
    shard = parse_memory_size("--max-shard-size", args.max_shard_size)
    if isinstance(shard, float):
        raise ConfigError(f"--max-shard-size must be bytes or a size, got {args.max_shard_size!r}")
    import torch

    from starr_engine.make_checkpoint.writer import make_checkpoint

    total = make_checkpoint(
        Path(args.out),
        published_model(args.arch, args.size),
        dtype=getattr(torch, args.dtype),
        seed=args.seed,
        max_shard_bytes=shard,
        weights=not args.no_weights,
        use_tqdm=sys.stderr.isatty(),
    )
    what = "random weights" if not args.no_weights else "no weights, which would take"
    print(f"{args.out}: {args.arch} {args.size}, {what} {total / 1e9:,.2f} GB in {args.dtype}")
