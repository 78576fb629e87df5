"""Flags that several sub-commands share, and what they mean to the engine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final, get_args

from starr_engine.cli.sampling_options import add_candidate_options, candidate_fields
from starr_engine.config import CudaGraphs, EngineConfig, LaunchAhead, LoadFormat, Quantization
from starr_engine.errors import ConfigError
from starr_engine.params import ArgValue, SamplingParams

_ENGINE: Final = EngineConfig()
_SAMPLING: Final = SamplingParams()


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Flags that become an ``EngineConfig``."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--model",
        default=_ENGINE.model,
        help="a shipped model's name, a folder in the published format, or a hub id "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--revision",
        metavar="NAME",
        default=_ENGINE.revision,
        help="branch, tag or commit of a hub id (default: main)",
    )
    group.add_argument(
        "--load-format",
        choices=get_args(LoadFormat),
        default=_ENGINE.load_format,
        help="auto reads the weights; dummy makes random ones up from the configuration, for "
        "benchmarks (default: %(default)s)",
    )
    add_memory_options(group)
    group.add_argument(
        "--batch-size",
        dest="max_num_requests",
        type=int,
        metavar="N",
        default=_ENGINE.max_num_requests,
        help="requests that run at once (default: %(default)s)",
    )
    group.add_argument(
        "--num-pages",
        type=int,
        metavar="N",
        default=_ENGINE.num_pages,
        help="pages of the KV cache (default: as many as --batch-size requests of the longest "
        "length need, within --kv-memory)",
    )
    group.add_argument(
        "--prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=_ENGINE.prefix_caching,
        help="share pages of equal prefixes where that is exact (default: on)",
    )
    group.add_argument(
        "--canvas-cache",
        type=int,
        metavar="N",
        default=_ENGINE.canvas_cache,
        help="equal canvases, such as samples of one prompt, whose first step is computed once; 0 "
        "for none (default: %(default)s)",
    )
    group.add_argument(
        "--attention-backend",
        "--attention",
        default=_ENGINE.attention_backend,
        help="one of those that `starr-engine info` lists, or auto (default: %(default)s)",
    )
    group.add_argument(
        "--cuda-graphs",
        choices=get_args(CudaGraphs),
        default=_ENGINE.cuda_graphs,
        help="auto records steps inside blocks and replays them, on CUDA; off runs every step "
        "eagerly (default: %(default)s)",
    )
    group.add_argument(
        "--record-at-start",
        action=argparse.BooleanOptionalAction,
        default=_ENGINE.record_at_start,
        help="on CUDA, record steps of all sizes when the engine starts instead of when they first "
        "come (default: %(default)s)",
    )
    group.add_argument(
        "--launch-ahead",
        choices=get_args(LaunchAhead),
        default=_ENGINE.launch_ahead,
        help="whether a step inside a block is launched before the one in front of it is known; "
        "auto does so on CUDA (default: %(default)s)",
    )
    group.add_argument(
        "--num-threads",
        type=int,
        metavar="N",
        default=_ENGINE.num_threads,
        help="CPU threads (default: torch's own setting)",
    )


def add_memory_options(group: argparse._ArgumentGroup) -> None:
    """Those flags of an engine that decide how many requests its pages hold."""
    group.add_argument(
        "--device", default=_ENGINE.device, help="cpu, cuda, cuda:N or auto (default: %(default)s)"
    )
    group.add_argument(
        "--tensor-parallel-size",
        type=int,
        metavar="RANKS",
        default=_ENGINE.tensor_parallel_size,
        help="processes that share the model, each with a GPU or a share of the cores (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default=_ENGINE.dtype,
        help="of weights, activations and pages; auto is float32 on CPU and bfloat16 on CUDA "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--quantization",
        choices=get_args(Quantization),
        default=_ENGINE.quantization,
        help="eight bits for the matrices of the layers: int8, or on CUDA fp8 (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="TOKENS",
        default=_ENGINE.max_model_len,
        help="longest prompt plus --max-tokens (default: the model's own limit)",
    )
    group.add_argument(
        "--mask-block-length",
        type=int,
        metavar="ROWS",
        default=_ENGINE.mask_block_length,
        help="block length of a block-causal model's attention mask (default: what its files say)",
    )
    group.add_argument(
        "--page-size",
        type=int,
        metavar="ROWS",
        default=_ENGINE.page_size,
        help="token rows of a page of the KV cache (default: 32, or the next multiple of a "
        "block-causal model's block length)",
    )
    group.add_argument(
        "--kv-memory",
        metavar="SIZE",
        default=_ENGINE.kv_memory,
        help="most memory of the KV cache, of each rank if there are several: bytes, a size such "
        "as 512MiB or 2GB, or a fraction such as 0.5 or 50%% of what is free once the model is "
        "loaded, on CUDA of what the largest step leaves; auto is 1GiB on a CPU and 95%% on CUDA "
        "(default: %(default)s)",
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``LLM`` from the flags of :func:`add_engine_options`."""
    names = (
        "model", "revision", "load_format", "max_num_requests", "num_pages", "prefix_caching",
        "canvas_cache", "attention_backend", "cuda_graphs", "record_at_start", "launch_ahead",
        "num_threads",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names} | memory_options(args)


def memory_options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of ``EngineConfig`` from the flags of :func:`add_memory_options`."""
    names = (
        "device", "tensor_parallel_size", "dtype", "quantization", "max_model_len",
        "mask_block_length", "page_size", "kv_memory",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names}


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Flags that become ``SamplingParams``."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens",
        type=int,
        metavar="TOKENS",
        default=_SAMPLING.max_tokens,
        help="longest output (default: %(default)s)",
    )
    group.add_argument(
        "--block-length",
        type=int,
        metavar="TOKENS",
        default=_SAMPLING.block_length,
        help="positions that are denoised together; the last block may be shorter (default: that "
        "of a block-causal model, else 32)",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=_SAMPLING.temperature,
        help="0 takes the most probable token; above 0 adds Gumbel noise (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=_SAMPLING.seed,
        help="of the noise; one seed gives one output in any batch (default: %(default)s)",
    )
    group.add_argument(
        "--remasking",
        metavar="POLICY",
        default=_SAMPLING.remasking,
        help="which positions to unmask at a step; POLICY@FILE takes its arguments from a file "
        "that `starr-engine calibrate` wrote (default: %(default)s)",
    )
    group.add_argument(
        "--remasking-arg",
        dest="remasking_args",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="argument of the remasking policy, e.g. threshold=0.9; repeatable",
    )
    group.add_argument(
        "--early-exit",
        metavar="RULE",
        default=_SAMPLING.early_exit,
        help="fill a block at once when the model is far ahead, which costs accuracy: prophet or "
        "sched (default: never)",
    )
    group.add_argument(
        "--early-exit-arg",
        dest="early_exit_args",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="argument of the early exit rule; repeatable",
    )
    group.add_argument(
        "--cache",
        metavar="POLICY",
        default=_SAMPLING.cache,
        help="which rows to recompute at a step; auto is block_causal where the model's attention "
        "is, else dual (default: %(default)s)",
    )
    group.add_argument(
        "--cache-arg",
        dest="cache_args",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="argument of the cache policy; repeatable",
    )
    group.add_argument(
        "--cache-salt",
        metavar="TEXT",
        default=_SAMPLING.cache_salt,
        help="requests share cached prefixes only with those of the same salt",
    )
    group.add_argument(
        "--cache-probe-rate",
        type=float,
        metavar="SHARE",
        default=_SAMPLING.cache_probe_rate,
        help="share of the steps that are computed again without any reuse, to tell how far the "
        "cache is off; shown in JSON and files (default: 0.05 with isolate_prompt, else 0)",
    )
    group.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        default=[],
        help="ends the output and is not part of it; looked for when a block is committed; "
        "repeatable",
    )
    group.add_argument(
        "--stop-token-id",
        dest="stop_token_ids",
        type=int,
        metavar="ID",
        action="append",
        default=[],
        help="token id that ends the output as EOS does; repeatable",
    )
    group.add_argument(
        "--ignore-eos",
        action="store_true",
        help="decode all --max-tokens and keep EOS in the output",
    )
    add_candidate_options(parser)


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """The parameters that the flags of :func:`add_sampling_options` ask for.

    Raises:
        StarrError: If a value is out of range, a policy unknown, or an argument not the policy's.
    """
    remasking, from_file = _remasking(args.remasking)
    params = SamplingParams(
        max_tokens=args.max_tokens,
        block_length=args.block_length,
        temperature=args.temperature,
        seed=args.seed,
        stop=tuple(args.stop),
        stop_token_ids=tuple(args.stop_token_ids),
        ignore_eos=args.ignore_eos,
        remasking=remasking,
        remasking_args=from_file | parse_args_list("--remasking-arg", args.remasking_args),
        cache=args.cache,
        cache_args=parse_args_list("--cache-arg", args.cache_args),
        cache_salt=args.cache_salt,
        cache_probe_rate=args.cache_probe_rate,
        early_exit=args.early_exit,
        early_exit_args=parse_args_list("--early-exit-arg", args.early_exit_args),
        **candidate_fields(args),
    )
    # A wrong flag is one error now, not one error in every row later.
    from starr_engine.cache.base import CACHE_POLICIES
    from starr_engine.decoding.base import REMASKING_POLICIES
    from starr_engine.decoding.exit.base import create_exit_rule

    REMASKING_POLICIES.create(params.remasking, params.remasking_args)
    if params.cache != "auto":
        CACHE_POLICIES.create(params.cache, params.cache_args)
    create_exit_rule(params)
    return params


def _remasking(text: str) -> tuple[str, dict[str, ArgValue]]:
    """``starr`` or ``starr@file.json`` -> the policy's name and what the file says of it."""
    name, at, path = text.partition("@")
    if not at:
        return name, {}
    if not name or not path:
        raise ConfigError(f"--remasking takes POLICY or POLICY@FILE, got {text!r}")
    from starr_engine.study.policy_file import load_policy_args

    return name, load_policy_args(path, name)


def parse_args_list(flag: str, entries: Sequence[str]) -> dict[str, ArgValue]:
    """``["k=0.5", "mode=fast"]`` -> ``{"k": 0.5, "mode": "fast"}``.

    A value is JSON's true, false, null, number or quoted string; anything else is text.

    Raises:
        ConfigError: If an entry has no ``=``, a name comes twice, or a value is a list or object.
    """
    parsed: dict[str, ArgValue] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not name or not equals:
            raise ConfigError(f"{flag} takes NAME=VALUE, got {entry!r}")
        if name in parsed:
            raise ConfigError(f"{flag} {name} is given twice")
        parsed[name] = _parse_value(flag, name, text)
    return parsed


def _parse_value(flag: str, name: str, text: str) -> ArgValue:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, list | dict):
        raise ConfigError(f"{flag} {name} takes a number, true, false, null or text, got {text}")
    assert value is None or isinstance(value, bool | int | float | str)
    return value
