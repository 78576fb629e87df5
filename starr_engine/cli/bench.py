"""``starr-engine bench``: latency, throughput and the profile of an engine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
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
    from starr_engine.bench.load import Load, LoadRequest
    from starr_engine.bench.peaks import Peaks
    from starr_engine.llm import LLM

_LATENCY: Final = "latency"
_WARMUP_TOKENS: Final = 32
"""Most tokens of a request that only warms up."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument(
        "mode",
        choices=(_LATENCY, "throughput"),
        help="latency runs one request at a time; throughput keeps --concurrency of them "
        "unfinished, or lets them come at --arrival-rate",
    )
    group = parser.add_argument_group("load")
    group.add_argument(
        "--prompts",
        metavar="SOURCE",
        help="a .jsonl or .parquet file of rows as for `batch`, or shipped sets as for `calibrate` "
        "(default: random tokens)",
    )
    group.add_argument(
        "--num-prompts",
        type=int,
        metavar="N",
        help="requests; of a file at most so many (default: 8 for latency, 64 for throughput)",
    )
    group.add_argument(
        "--prompt-len",
        metavar="N[:MAX]",
        default="128",
        help="tokens of a random prompt, or a range to draw from; random prompts are decoded to "
        "--max-tokens whatever comes out (default: %(default)s)",
    )
    group.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="unfinished requests: the next one comes when one ends (default: --batch-size)",
    )
    group.add_argument(
        "--arrival-rate",
        type=float,
        metavar="PER_SECOND",
        help="requests come by themselves, at random times with this mean rate (Poisson, from "
        "--seed); latencies count from when a request was due",
    )
    group.add_argument(
        "--tokens-per-step",
        type=int,
        metavar="K",
        help="unmask exactly K tokens at every step: tokens per forward without a trained model; "
        "for policies with a fixed count (default policy with this flag: low_confidence)",
    )
    group.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="requests of at most 32 tokens that run first and are not counted (default: as many "
        "as run at once)",
    )
    _add_report_options(parser)
    add_sampling_options(parser)
    add_engine_options(parser)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--profile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the phases of every step, and count its bytes and FLOPs (default: on)",
    )
    group.add_argument(
        "--chrome-trace",
        metavar="FILE",
        help="write the profile as trace events, for ui.perfetto.dev or chrome://tracing",
    )
    group.add_argument(
        "--peak-bandwidth",
        type=float,
        metavar="GB/S",
        help="of the device's memory, for the roofline (default: measured)",
    )
    group.add_argument(
        "--peak-compute",
        type=float,
        metavar="TFLOP/S",
        help="of the device, in --dtype (default: measured)",
    )
    group.add_argument("--output", metavar="FILE", help="write the last line's JSON here, too")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If a flag or a prompt cannot be used, or a request fails.
    """
    _check(args)
    params = _params(args)
    from starr_engine.bench.chrome_trace import write_chrome_trace
    from starr_engine.bench.measure import measure
    from starr_engine.bench.report import report_lines
    from starr_engine.environment import environment
    from starr_engine.llm import LLM

    with LLM(**engine_options(args)) as llm:
        load, warmup = _loads(args, params, llm)
        has_roofline = args.profile and llm.engine.config.tensor_parallel_size == 1
        peaks = _peaks(args, llm) if has_roofline else None
        found = measure(llm.engine, load, warmup=warmup, profile=args.profile, peaks=peaks)
        record: dict[str, Any] = {
            "benchmark": f"bench_{args.mode}",
            "environment": environment(),
            "setting": _setting(args, params, llm),
            **found.report,
        }
    if args.chrome_trace is not None and found.profile is not None:
        write_chrome_trace(Path(args.chrome_trace), found.profile)
    if args.output is not None:
        Path(args.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report_lines(record)))
    print(json.dumps(record))


def _check(args: argparse.Namespace) -> None:
    if args.mode == _LATENCY and not (args.concurrency is None and args.arrival_rate is None):
        raise ConfigError(
            "latency runs one request at a time; --concurrency and --arrival-rate are of throughput"
        )
    if args.concurrency is not None and args.arrival_rate is not None:
        raise ConfigError(
            "--concurrency waits for requests to end and --arrival-rate does not; give one of them"
        )
    for path in filter(None, (args.chrome_trace, args.output)):
        if not Path(path).parent.is_dir():
            raise ConfigError(f"there is no folder {Path(path).parent} to write {path!r} to")
    if args.concurrency is not None and args.concurrency < 1:
        raise ConfigError(f"--concurrency must be at least 1, got {args.concurrency}")
    if args.num_prompts is not None and args.num_prompts < 1:
        raise ConfigError(f"--num-prompts must be at least 1, got {args.num_prompts}")
    if args.warmup is not None and args.warmup < 0:
        raise ConfigError(f"--warmup must be at least 0, got {args.warmup}")
    if args.chrome_trace is not None and not args.profile:
        raise ConfigError("--chrome-trace is made of the profile; leave --no-profile out")
    if args.tensor_parallel_size > 1 and (args.peak_bandwidth or args.peak_compute):
        raise ConfigError(
            "a roofline is that of one device; leave --peak-bandwidth and --peak-compute out with "
            "--tensor-parallel-size"
        )
    if args.n != 1:
        raise ConfigError(f"a benchmark counts requests of one sample, and --n is {args.n}")


def _params(args: argparse.Namespace) -> SamplingParams:
    if args.tokens_per_step is not None:
        if args.remasking == SamplingParams().remasking:
            args.remasking = "low_confidence"
        args.remasking_args = [*args.remasking_args, f"tokens_per_step={args.tokens_per_step}"]
    params = sampling_params(args)
    # Where a random prompt is not a task, where it ends says nothing.
    return replace(params, ignore_eos=True) if args.prompts is None else params


def _loads(args: argparse.Namespace, params: SamplingParams, llm: LLM) -> tuple[Load, Load | None]:
    """What is measured, and what runs first."""
    from starr_engine.bench.load import Load, LoadRequest, poisson_arrivals

    is_latency = args.mode == _LATENCY
    count = args.num_prompts or (8 if is_latency else 64)
    at_once = 1 if is_latency else args.concurrency or args.max_num_requests
    requests = _requests(args, params, llm, count)
    num_warm = at_once if args.warmup is None else args.warmup
    short = replace(params, max_tokens=min(params.max_tokens, _WARMUP_TOKENS))
    warm = tuple(
        LoadRequest(token_ids=token_ids, params=short)
        for token_ids in _random(args, llm, num_warm, seed=args.seed + 1)
    )
    if args.arrival_rate is not None:
        due = poisson_arrivals(len(requests), args.arrival_rate, args.seed)
        requests = [replace(each, due_s=at) for each, at in zip(requests, due, strict=True)]
    is_open = args.arrival_rate is not None
    load = Load(requests=tuple(requests), concurrency=None if is_open else at_once)
    return load, Load(requests=warm, concurrency=max(1, num_warm)) if warm else None


def _requests(
    args: argparse.Namespace, params: SamplingParams, llm: LLM, count: int
) -> list[LoadRequest]:
    from starr_engine.bench.load import LoadRequest

    if args.prompts is None:
        prompts = _random(args, llm, count, seed=args.seed)
        return [LoadRequest(token_ids=token_ids, params=params) for token_ids in prompts]
    from starr_engine.study.calibration.prompts import read_prompts

    read = read_prompts(
        args.prompts,
        params,
        lambda: llm.tokenizer,
        limit=count,
        seed=args.seed,
        with_problems=False,
    )
    return [LoadRequest(token_ids=each.token_ids, params=each.params) for each in read.prompts]


def _random(args: argparse.Namespace, llm: LLM, count: int, *, seed: int) -> list[tuple[int, ...]]:
    from starr_engine.bench.load import random_prompts

    spec = llm.engine.spec
    return random_prompts(
        count,
        _lengths(args.prompt_len),
        vocab_size=spec.vocab_size,
        excluded_ids=(spec.mask_token_id, *spec.eos_token_ids),
        seed=seed,
    )


def _lengths(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise ConfigError(f"--prompt-len takes N or MIN:MAX, got {text!r}") from None


def _peaks(args: argparse.Namespace, llm: LLM) -> Peaks:
    import torch

    from starr_engine.bench.peaks import Peaks, measure_peaks

    bandwidth, compute = args.peak_bandwidth, args.peak_compute
    if bandwidth is None or compute is None:
        config = llm.engine.config
        measured = measure_peaks(llm.engine.device, getattr(torch, config.dtype))
        bandwidth = measured.bytes_per_s / 1e9 if bandwidth is None else bandwidth
        compute = measured.flops_per_s / 1e12 if compute is None else compute
    return Peaks(bytes_per_s=1e9 * bandwidth, flops_per_s=1e12 * compute)


def _setting(args: argparse.Namespace, params: SamplingParams, llm: LLM) -> dict[str, Any]:
    """What another run must be given to be the same."""
    load = ("mode", "prompts", "num_prompts", "prompt_len", "concurrency", "arrival_rate", "warmup")
    default, given = asdict(SamplingParams()), asdict(params)
    return {
        "load": {name: getattr(args, name) for name in load},
        "params": {name: value for name, value in given.items() if value != default[name]},
        "engine": asdict(llm.engine.config),
        "num_parameters": llm.engine.num_parameters,
        "weight_bytes": llm.engine.weight_bytes,
    }
