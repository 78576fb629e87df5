"""The ``starr-engine`` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import starr_engine
from starr_engine.errors import StarrError

PROGRAM: Final = "starr-engine"
COMMANDS: Final = {
    "batch": "run every row of files and write a file of the same order, on one engine or many",
    "generate": "complete one prompt",
    "chat": "answer one message, or talk",
    "serve": "an OpenAI-compatible server with one engine, or several on Ray",
    "trace": "decode one prompt and write a page that shows every step of it",
    "study": "measure a grid of caches and remasking policies on tasks, and write a report",
    "recommend": "find the settings to use for a model, prompts and a limit on accuracy",
    "problems": "write problems of a built-in task or a published benchmark as rows",
    "score": "count the right answers of a batch job on such rows",
    "calibrate": "find a policy's arguments on your own prompts",
    "bench": "measure latency or throughput, and where the time of a step goes",
    "make-checkpoint": "write a random checkpoint in a published format",
    "info": "show models, policies, compiled parts and devices",
}
"""Sub-command to its line in the help; each is a module of this package, dashes underscored."""

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_CLOSED_PIPE: Final = 141  # 128 + SIGPIPE


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser with all sub-commands; only ``command``'s own module is imported."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Inference engine for diffusion language models.",
        epilog=f"`{PROGRAM} COMMAND --help` explains a command's flags.",
    )
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {starr_engine.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name == command:
            module = importlib.import_module(f"starr_engine.cli.{name.replace('-', '_')}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; None takes the process's own.

    Returns:
        The exit code: 0; 2 for an error, which is one line on standard error; 128 + the signal
        after Ctrl-C or termination.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    args = make_parser(chosen).parse_args(words)
    try:
        args.run(args)
        sys.stdout.flush()
    except StarrError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", EXIT_ERROR))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; without this Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLOSED_PIPE
    return 0
