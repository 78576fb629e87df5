"""``starr-engine lm-eval``: the command of lm-evaluation-harness, which then knows the engine."""

from __future__ import annotations

import argparse
from typing import Final

_EPILOG: Final = """\
examples:
  starr-engine lm-eval --model starr_engine --model_args model=tiny-llada,cache=dual \\
      --tasks mine --include_path tasks --batch_size 16
  starr-engine lm-eval ls tasks
  starr-engine lm-eval run --help

Everything behind lm-eval goes to the harness as it is; docs/evaluation.md lists what --model_args
takes. It needs the extra lm-eval: pip install 'starr-engine[lm-eval]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this command says of itself; see ``main.FORWARDED``."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the harness")


def run(args: argparse.Namespace) -> None:
    """Hand the arguments on.

    Raises:
        ConfigError: If ``lm_eval`` is not installed.
        SystemExit: As the harness ends itself.
    """
    from starr_engine.study.lm_eval.registration import run_harness

    run_harness(args.arguments)
