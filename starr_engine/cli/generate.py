"""``starr-engine generate``: one prompt, one output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from starr_engine.cli.infilling import add_infill_options, infill_prompt
from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_params,
)
from starr_engine.errors import ConfigError, RequestError
from starr_engine.offline.rows import logprob_objects, sample_object
from starr_engine.outputs import BlockOutput, RequestOutput

if TYPE_CHECKING:
    from starr_engine.prompts import Prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument("prompt", nargs="?", help="the text to continue (default: standard input)")
    parser.add_argument(
        "--stream", action="store_true", help="print each block as soon as it is committed"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the output with its ids and counts as one JSON object; with --stream one "
        "object per block comes before it",
    )
    add_infill_options(parser)
    add_sampling_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If the prompt or a flag cannot be used.
    """
    params = sampling_params(args)
    if args.stream and params.n > 1:
        raise ConfigError(f"--stream shows one sample as it grows, and --n is {params.n}; drop one")
    prompt: Prompt | None = infill_prompt(args) or args.prompt
    from starr_engine.llm import LLM

    if prompt is None:
        prompt = read_text()
    llm = LLM(**engine_options(args))
    for output in llm.stream(prompt, params) if args.stream else llm.generate(prompt, params):
        samples = output.samples if isinstance(output, RequestOutput) else ()
        for sample in samples:
            if sample.error is not None:
                raise RequestError(sample.error)
        if args.json:
            print(json.dumps(as_json(output), ensure_ascii=False), flush=True)
        elif isinstance(output, BlockOutput):
            print(output.text, end="", flush=True)
        else:
            print("" if args.stream else "\n".join(sample.text for sample in samples))


def read_text() -> str:
    """All of standard input, without the newline that ends its last line."""
    return sys.stdin.read().removesuffix("\n")


def as_json(output: BlockOutput | RequestOutput) -> Mapping[str, object]:
    """The fields that mean something outside this process."""
    if isinstance(output, BlockOutput):
        return {
            "block_index": output.block_index,
            "text": output.text,
            "token_ids": list(output.token_ids),
            "nfe": output.num_forwards,
        }
    optional: dict[str, object] = {}
    if output.logprobs is not None:
        optional["logprobs"] = logprob_objects(output.logprobs)
    if output.drift is not None:
        optional["drift"] = asdict(output.drift)
    if output.other_samples:
        optional["samples"] = [sample_object(sample) for sample in output.samples]
    return {
        "text": output.text,
        "token_ids": list(output.token_ids),
        "finish_reason": str(output.finish_reason),
        "nfe": output.nfe,
        "tpf": output.tpf,
        "cache_label": output.cache_label,
        "num_prompt_tokens": len(output.prompt_token_ids),
        "computed_rows": output.computed_rows,
        "latency_s": output.latency_s,
        "mean_log_confidence": output.mean_log_confidence,
        **({"slots": list(output.slots)} if output.slots else {}),
        **(
            {"gap_lengths_tried": list(output.gap_lengths_tried), "total_nfe": output.total_nfe}
            if output.gap_lengths_tried
            else {}
        ),
        **optional,
    }
