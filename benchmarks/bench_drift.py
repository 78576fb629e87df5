"""Refresh by drift: what the signal says of the error, and what it buys against fixed refreshes.

Part 1 decodes with cache ``dual``, one refresh at the request's start and every step probed, and
correlates the drift added up so far with the mean KL divergence of the step, for the values of
several layers. Part 2 decodes unseen problems of all tasks with ``refresh`` block, never and drift.

    python -m benchmarks.bench_drift [--num-problems 20] [--output FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import write_result
from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.engine.step_batch import StepBatch
from starr_engine.outputs import CacheDrift
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.runner import Work, run_work
from starr_engine.study.tasks import TASKS, Problem

REMASKING: Mapping[str, Mapping[str, Any]] = {"threshold": {"threshold": 0.9}, "low_confidence": {}}
NEVER_DUE = 1e9

Problems = Mapping[str, Sequence[Problem]]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """Decoding of one run over all problems."""

    remasking: str
    cache_args: Mapping[str, Any]
    cache: str = "dual"
    cache_probe_rate: float = 0.0


def decode(llm: LLM, problems: Problems, setting: Setting) -> dict[str, list[RequestOutput]]:
    """Outputs by set, in the order of the problems."""
    found: dict[tuple[str, int], RequestOutput] = {}
    work = [
        Work(
            key=(name, at),
            prompt_token_ids=tuple(llm.tokenizer.encode(problem.prompt)),
            params=SamplingParams(
                max_tokens=PROBLEM_SETS[name].max_tokens,
                block_length=PROBLEM_SETS[name].block_length,
                remasking=setting.remasking,
                remasking_args=dict(REMASKING[setting.remasking]),
                cache=setting.cache,
                cache_args=dict(setting.cache_args),
                cache_probe_rate=setting.cache_probe_rate,
                seed=at,
                ignore_eos=True,
            ),
        )
        for name, each in problems.items()
        for at, problem in enumerate(each)
    ]
    run_work(llm.engine, work, found.__setitem__)
    return {name: [found[name, at] for at in range(len(problems[name]))] for name in problems}


class StepLog:
    """Signal and error of every step of every request, read off around each forward."""

    def __init__(self, llm: LLM) -> None:
        self.signal: list[float] = []
        self.total: list[float] = []
        self.kl: list[float] = []
        self.request: list[str] = []
        self._forward = llm.engine.executor.forward

    def forward(self, batch: StepBatch) -> torch.Tensor:
        """Stands in for the executor's."""
        runs = [entry.running for entry in batch.entries]
        before = [(run.request.drift_since_refresh, _kl_sum(run.probes)) for run in runs]
        logits = self._forward(batch)
        for run, (drift, (kl, rows)) in zip(runs, before, strict=True):
            if run.request.num_forwards == 0:
                continue  # the refresh
            kl_now, rows_now = _kl_sum(run.probes)
            self.signal.append(run.request.drift_since_refresh - drift)
            self.total.append(run.request.drift_since_refresh)
            self.request.append(run.request.request_id)
            self.kl.append((kl_now - kl) / (rows_now - rows))
        return logits


def _kl_sum(probes: Any) -> tuple[float, int]:
    report: CacheDrift = probes.report()
    return (report.mean_kl or 0.0) * report.rows_compared, report.rows_compared


def correlation(llm: LLM, problems: Problems, remasking: str, layer: int) -> dict[str, Any]:
    """How well a layer's signal predicts the error; nothing is refreshed after the first step."""
    log, executor = StepLog(llm), llm.engine.executor
    last, executor.drift_layer = executor.drift_layer, layer
    executor.forward = log.forward  # type: ignore[method-assign]
    try:
        args = {"refresh": "drift", "drift_budget": NEVER_DUE}
        decode(llm, problems, Setting(remasking, args, cache_probe_rate=1.0))
    finally:
        executor.drift_layer = last
        del executor.forward
    signal, total, kl = (np.array(each) for each in (log.signal, log.total, log.kl))
    names = np.array(log.request)
    each = [names == name for name in dict.fromkeys(log.request)]
    by_request = [np.array([part[rows].mean() for rows in each]) for part in (signal, kl)]
    return {
        "remasking": remasking,
        "layer": layer,
        "steps": len(kl),
        "mean_signal": float(signal.mean()),
        "total_quartiles": np.quantile(total, [0.25, 0.5, 0.75]).tolist(),
        "mean_kl": float(kl.mean()),
        "spearman_total_kl": _spearman(total, kl),
        "spearman_signal_kl": _spearman(signal, kl),
        "spearman_signal_kl_of_requests": _spearman(*by_request),
        "pearson_total_kl": float(np.corrcoef(total, kl)[0, 1]) if total.std() > 0 else None,
        "kl_by_total_quarter": [
            float(part.mean()) for part in np.array_split(kl[total.argsort(kind="stable")], 4)
        ],
    }


def _spearman(first: Numbers, second: Numbers) -> float | None:
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Numbers) -> Numbers:
    """Ranks; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Numbers = ((ends - counts + ends - 1) / 2)[inverse]
    return ranks


def compare(
    llm: LLM, problems: Problems, setting: Setting, exact: Mapping[str, list[RequestOutput]] | None
) -> tuple[dict[str, Any], dict[str, list[RequestOutput]]]:
    """Accuracy and cost of a setting; agreement is with no cache."""
    started = time.perf_counter()
    outputs = decode(llm, problems, setting)
    wall_s = time.perf_counter() - started
    solved = {
        name: TASKS[PROBLEM_SETS[name].task].score_many(each, [o.text for o in outputs[name]])
        for name, each in problems.items()
    }
    every = [output for name in problems for output in outputs[name]]
    row: dict[str, Any] = {
        "remasking": setting.remasking,
        "cache": setting.cache,
        "cache_args": dict(setting.cache_args),
        "problems": len(every),
        "accuracy": float(np.mean([s for each in solved.values() for s in each])),
        "accuracy_by_set": {name: float(np.mean(each)) for name, each in solved.items()},
        "mean_nfe": float(np.mean([output.nfe for output in every])),
        "mean_computed_rows": float(np.mean([output.computed_rows for output in every])),
        "mean_refreshes": float(np.mean([output.num_refreshes for output in every])),
        "wall_s": wall_s,
    }
    if exact is not None:
        pairs = zip(every, (output for name in problems for output in exact[name]), strict=True)
        row["identical_to_no_cache"] = float(
            np.mean([a.token_ids == b.token_ids for a, b in pairs])
        )
    print(row, flush=True)
    return row, outputs


def main() -> None:
    """Both parts, for one token per step and for a threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-problems", type=int, default=20, help="of each set")
    parser.add_argument("--num-probed", type=int, default=4, help="of each set, for part 1")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 3, 5])
    parser.add_argument("--remasking", nargs="+", choices=REMASKING, default=list(REMASKING))
    parser.add_argument("--only-signal", action="store_true", help="part 1 alone, not written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Equal canvases must not spare one setting rows that another computed.
    llm = LLM("tiny-llada", device="cpu", dtype="float32", max_num_requests=16, canvas_cache=0)
    problems = {n: PROBLEM_SETS[n].problems("test", args.num_problems, 0) for n in TRAINED_SETS}
    probed = {name: each[: args.num_probed] for name, each in problems.items()}
    signal = []
    for name in args.remasking:
        for layer in args.layers:
            signal.append(correlation(llm, probed, name, layer))
            print(signal[-1], flush=True)
    if args.only_signal:
        return
    setting = {"model": "tiny-llada", "split": "test", "seed": 0} | vars(args) | {"output": None}
    rows = []
    for name in args.remasking:
        exact_row, exact = compare(llm, problems, Setting(name, {}, cache="none"), None)
        rows.append(exact_row)
        choices: list[dict[str, Any]] = [{"refresh": "block"}, {"refresh": "never"}]
        choices += [{"refresh": "drift", "drift_budget": budget} for budget in args.budgets]
        rows += [compare(llm, problems, Setting(name, c), exact)[0] for c in choices]
        write_result("drift", {"setting": setting, "signal": signal, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
