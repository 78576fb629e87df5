"""``starr-engine batch``: rows in, a file out, by one engine or several."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_params,
)
from starr_engine.cli.worker_options import add_worker_options, asked_workers
from starr_engine.config import EngineConfig
from starr_engine.distributed import run_batch
from starr_engine.offline.job import WINDOW_PER_REQUEST, BatchJob, check_job, run_batch_job
from starr_engine.offline.summary import BatchSummary

_ROWS: Final = """\
rows:
  A row has exactly one of
    prompt            text
    messages          [{"role": ..., "content": ...}, ...], through the model's chat template
    prompt_token_ids  [int, ...]
    prefix, suffix    text on both sides of a gap, with
      gap             its tokens, or [low, high] of which the best of up to 16 lengths is taken
    template          ["Name: ", 4, ...], texts and numbers of tokens to generate, after prompt
  and may have an id and any of the fields of SamplingParams (max_tokens, temperature, seed, stop,
  top_p, logit_bias, n, logprobs, remasking, cache ...: docs/sampling.md lists them), which override
  the flags for that row. null counts as absent. All other columns are carried through, but fields
  of other engines that are not offered (best_of, guided_json, tools ...) are an error of the row.

  The output has, in the order of the input: id, the carried columns, and
    text, token_ids   the output, without EOS and padding
    finish_reason     stop or length
    nfe, tpf          model forwards of the row; unmasked positions per forward
    cache_label       exact, or approximate: and why
    slots             of a row with a gap or a template: the text of each
    error             null; or why the row could not run, and then the others are null
    logprobs          for rows that ask: token_id, logprob, step and top of each token
    drift             for rows with a cache_probe_rate: how far the cache was off
    samples           for rows with n above 1: all samples; the columns above are the first one's

interruption:
  Finished rows are kept in OUTPUT.partial until the last one is done. After Ctrl-C, a kill or a
  full disk, run the same command with --resume: no row is lost and none is run twice. With
  --workers a worker that dies is replaced; a row that ends its worker twice gets an error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _ROWS
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("files")
    group.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help=".jsonl or .parquet; a folder of one of the two; or a data set saved to a folder",
    )
    group.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".jsonl or .parquet; need not be of the input's kind",
    )
    group.add_argument(
        "--shard-rows",
        type=int,
        metavar="ROWS",
        help="make OUTPUT a folder of files with so many rows each, and a manifest.json",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run; refuses other settings or another input; starts if "
        "there is nothing to continue",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing output once the new one is complete, and drop an unfinished "
        "run unless --resume is given",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="ROWS",
        help="most rows between the first unfinished one and the last one started; bounds memory "
        f"(default: {WINDOW_PER_REQUEST} times --batch-size)",
    )
    group.add_argument(
        "--summary", type=Path, metavar="FILE", help="write the run's totals to this file, as JSON"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    add_worker_options(parser, "docs/batch.md")
    add_sampling_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If the job cannot run or is interrupted.
    """
    job = BatchJob(
        input=args.input,
        output=args.output,
        params=sampling_params(args),
        resume=args.resume,
        overwrite=args.overwrite,
        window=args.window,
        shard_rows=args.shard_rows,
        progress=not args.quiet,
    )
    check_job(job)  # before the model takes its time to load
    options = engine_options(args)
    if (workers := asked_workers(args)) is None:
        from starr_engine.llm import LLM

        summary = run_batch_job(LLM(**options), job)
    else:
        summary = run_batch(job, EngineConfig(**options), workers)
    if args.summary is not None:
        args.summary.write_text(json.dumps(asdict(summary), default=str, indent=1) + "\n")
    if not args.quiet:
        print(describe(summary))


def describe(summary: BatchSummary) -> str:
    """The summary as a line for people."""
    notes = [f"{summary.num_errors} with an error"] if summary.num_errors else []
    if summary.num_resumed:
        notes.append(f"{summary.num_resumed} from an earlier run")
    return (
        f"{summary.output}: {summary.num_rows} rows"
        + (f" ({', '.join(notes)})" if notes else "")
        + f", NFE {summary.mean_nfe:.1f} per row, TPF {summary.tpf:.2f}, "
        f"{summary.tokens_per_s:.0f} tokens/s, {summary.wall_s:.1f} s"
    )
