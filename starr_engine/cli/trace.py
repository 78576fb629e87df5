"""``starr-engine trace``: how a prompt was decoded, as a page to look at."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from starr_engine.cli.generate import read_text
from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    parse_args_list,
    sampling_params,
)
from starr_engine.errors import ConfigError, RequestError
from starr_engine.params import SamplingParams
from starr_engine.study.trace_html import MAX_TRACES, check_traces, render_page
from starr_engine.trace import Trace, trace_from_plain, trace_to_plain

_EXAMPLES = """\
examples:
  starr-engine trace --prompt "Sort: 5 3 9" --output page.html
  starr-engine trace --prompt "Sort: 5 3 9" --against threshold:threshold=0.95 --output page.html
  starr-engine trace --from-json a.json b.json --output page.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("trace")
    group.add_argument("--prompt", help="the text to continue (default: standard input)")
    group.add_argument(
        "--chat", action="store_true", help="put the prompt through the model's chat template"
    )
    group.add_argument(
        "--against",
        metavar="POLICY[:NAME=VALUE,...]",
        action="append",
        default=[],
        help="decode the same prompt with this remasking policy too and show both side by side, "
        f"e.g. threshold:threshold=0.9; repeatable, {MAX_TRACES} policies in all",
    )
    group.add_argument(
        "--output", type=Path, metavar="FILE", help="write the page here: one HTML file"
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write the traces here, as JSON")
    group.add_argument(
        "--from-json",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="show traces that --json wrote instead of decoding; the sampling and engine flags "
        "then mean nothing",
    )
    add_sampling_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If a flag, the prompt or a file cannot be used.
    """
    if args.output is None and args.json is None:
        raise ConfigError("give --output FILE for the page, --json FILE for the traces, or both")
    if args.from_json is None:
        traces = record(args)
    elif args.prompt is not None or args.against or args.chat:
        raise ConfigError("--from-json shows saved traces; leave --prompt, --chat, --against out")
    else:
        traces = [trace for path in args.from_json for trace in read_traces(path)]
    check_traces(traces)
    if args.json is not None:
        write(args.json, json.dumps([trace_to_plain(trace) for trace in traces]) + "\n")
    if args.output is not None:
        write(args.output, render_page(traces))
    for trace in traces:
        policy = describe(trace.remasking, trace.remasking_args)
        tpf = trace.num_unmasked / max(1, trace.nfe)
        print(f"{policy}: NFE {trace.nfe}, TPF {tpf:.2f}, {trace.cache_label}")


def record(args: argparse.Namespace) -> list[Trace]:
    """Decode the prompt once for each policy, one after another, so that times are their own."""
    params = replace(sampling_params(args), trace=True)
    asked = [params, *(rival(params, text) for text in args.against)]
    if len(asked) > MAX_TRACES:
        raise ConfigError(f"a page shows {MAX_TRACES} policies; give --against less often")
    prompt = read_text() if args.prompt is None else args.prompt
    from starr_engine.llm import LLM

    llm = LLM(**engine_options(args))
    traces: list[Trace] = []
    for each in asked:
        [output] = (
            llm.chat([{"role": "user", "content": prompt}], each)
            if args.chat
            else llm.generate(prompt, each)
        )
        if output.error is not None:
            raise RequestError(output.error)
        assert output.trace is not None
        traces.append(output.trace)
    return traces


def rival(params: SamplingParams, text: str) -> SamplingParams:
    """``params`` with the policy of ``"threshold:threshold=0.9"`` in place of its own."""
    name, _, listed = text.partition(":")
    args = parse_args_list("--against", listed.split(",") if listed else [])
    from starr_engine.decoding.base import REMASKING_POLICIES

    REMASKING_POLICIES.create(name, args)
    return replace(params, remasking=name, remasking_args=args)


def read_traces(path: Path) -> list[Trace]:
    """The traces of a file: what ``--json`` wrote, or one ``Trace.to_json``."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the traces in {path} cannot be read: {error}") from error
    try:
        return [trace_from_plain(each) for each in (plain if isinstance(plain, list) else [plain])]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write(path: Path, text: str) -> None:
    """Write a file, or say why not."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def describe(name: str, args: Mapping[str, object]) -> str:
    """A policy and its arguments as one would type them."""
    listed: Sequence[str] = [f"{key}={value}" for key, value in args.items()]
    return f"{name}:{','.join(listed)}" if listed else name
