"""``starr-engine chat``: through the model's chat template."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from starr_engine.cli.generate import read_text
from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_params,
)
from starr_engine.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from starr_engine.llm import LLM
    from starr_engine.params import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument(
        "message",
        nargs="?",
        help="a single message to answer (default: a conversation on a terminal, which an empty "
        "line or Ctrl-D ends; else standard input as one message)",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    add_sampling_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If the model has no chat template, or a message or flag cannot be used.
    """
    params = sampling_params(args)
    if params.n > 1:
        raise ConfigError(f"a conversation goes on with one answer, and --n is {params.n}; drop it")
    message = args.message
    if message is None and not sys.stdin.isatty():
        message = read_text()
    from starr_engine.llm import LLM

    llm = LLM(**engine_options(args))
    messages = [] if args.system is None else [{"role": "system", "content": args.system}]
    if message is None:
        _talk(llm, messages, params)
    else:
        messages.append({"role": "user", "content": message})
        print(_answer(llm, messages, params))


def _talk(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> None:
    while message := _ask():
        messages.append({"role": "user", "content": message})
        try:
            answer = _answer(llm, messages, params)
        except RequestError as error:  # too long, say: the conversation before it still stands
            print(f"error: {error}", file=sys.stderr)
            messages.pop()
            continue
        print(answer)
        messages.append({"role": "assistant", "content": answer})


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> str:
    output = llm.chat(messages, params)[0]
    if output.error is not None:
        raise RequestError(output.error)
    return output.text


def _ask() -> str:
    try:
        return input("> ")
    except EOFError:
        print()
        return ""
