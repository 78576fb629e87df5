"""Cache policy x task on the shipped models' unseen problems: accuracy, forwards, rows and speed.

Every cache setting decodes the same problems under three remasking policies: one token per step,
``threshold`` 0.9 and ``starr``. Agreement is with no cache under the same remasking policy, so it
is what the cache alone has changed.

    python -m benchmarks.cache_study [--num-problems 100] [--models tiny-llada tiny-sdar]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import write_result
from benchmarks.policy_settings import Setting
from benchmarks.policy_study import Study, numbers
from starr_engine import LLM
from starr_engine.environment import environment
from starr_engine.models.loading.locate import shipped_models
from starr_engine.params import ArgValue
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.references import References, SetOutputs

REMASKING: Final[Mapping[str, Setting]] = {
    "one token per step": Setting(policy="low_confidence"),
    "threshold 0.9": Setting(policy="threshold"),
    "starr": Setting(policy="starr"),
}
NO_CACHE: Final = "none"
MODELS: Final = ("tiny-llada", "tiny-sdar")

_Caches = Mapping[str, tuple[str, Mapping[str, ArgValue]]]

BIDIRECTIONAL: Final[_Caches] = {
    NO_CACHE: ("none", {}),
    "none, suffix window 8": ("none", {"suffix_window": 8}),
    "prefix": ("prefix", {}),
    "dual": ("dual", {}),
    "dual, refresh every 4": ("dual", {"refresh_every": 4}),
    "dual, refresh never": ("dual", {"refresh": "never"}),
    "dual, suffix window 8": ("dual", {"suffix_window": 8}),
    "dual, drift budget 0.02": ("dual", {"refresh": "drift", "drift_budget": 0.02}),
    "dual, drift budget 0.1": ("dual", {"refresh": "drift", "drift_budget": 0.1}),
    "dual, isolated prompt": ("dual", {"isolate_prompt": True}),
    "vicinity": ("vicinity", {}),
    "delayed": ("delayed", {}),
    "dllm": ("dllm", {}),
    "dllm, cheaper": ("dllm", {"prompt_interval": 100, "response_interval": 16, "ratio": 0.1}),
}
BLOCK_CAUSAL: Final[_Caches] = {
    NO_CACHE: ("none", {}),
    "dual": ("dual", {}),
    "dual, refresh never": ("dual", {"refresh": "never"}),
    "block_causal": ("block_causal", {}),
}
"""Cache settings by name, the reference first."""


def row_of(
    study: Study,
    outputs: Mapping[str, SetOutputs],
    references: References,
    base: Mapping[str, SetOutputs],
) -> dict[str, Any]:
    """The numbers of one cache setting, over all sets and by set."""
    outcomes = study.outcomes(outputs, references)
    overall, by_set = numbers(outcomes, outputs, study.outcomes(base, references))
    for each, sets in ((overall, list(outputs)), *((by_set[name], [name]) for name in outputs)):
        rows = [row for name in sets for row in outputs[name].computed_rows]
        reference = [row for name in sets for row in base[name].computed_rows]
        each["rows"] = sum(rows) / len(rows)
        each["rows_ratio"] = sum(reference) / sum(rows)
        each["rows_per_forward"] = sum(rows) / (each["nfe"] * len(rows))
    overall["time_ratio"] = sum(each.wall_s for each in base.values()) / sum(
        each.wall_s for each in outputs.values()
    )
    return {"overall": overall, "by_set": by_set}


def study_model(model: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings on one model."""
    llm = LLM(
        model,
        device="cpu",
        dtype="float32",
        max_num_requests=args.batch_size,
        num_threads=args.threads,
        # Every request computes its own rows: neither problems nor repeats share any.
        canvas_cache=0,
        prefix_caching=False,
    )
    block_length = llm.engine.spec.block_length
    caches = BIDIRECTIONAL if block_length is None else BLOCK_CAUSAL
    rows = []
    for remasking, setting in REMASKING.items():
        is_slow = setting.policy == "low_confidence"
        count = args.num_problems_slow if is_slow else args.num_problems
        problems = {
            name: PROBLEM_SETS[name].problems("test", count, args.seed) for name in args.sets
        }
        study = Study(llm, problems, cache="none", ignore_eos=False)
        study.run(replace(setting, policy="threshold"))  # warm: shapes, memory, threads
        base: dict[str, SetOutputs] = {}
        for name, (cache, cache_args) in caches.items():
            outputs = study.run(replace(setting, cache=cache, cache_args=cache_args))
            base = base or outputs
            references = References(by_set=base, environment=environment())
            label = next(iter(outputs.values())).cache_label
            row = {
                "model": model, "remasking": remasking, "name": name, "cache": cache,
                "cache_args": dict(cache_args), "label": label, "num_problems": count,
            }  # fmt: skip
            row |= row_of(study, outputs, references, base)
            rows.append(row)
            each = row["overall"]
            print(
                f"{model:10} {remasking:18} {name:24} accuracy {each['accuracy']:.3f}  "
                f"NFE {each['nfe']:6.2f}  rows {each['rows']:7.0f} ({each['rows_ratio']:.2f}x)  "
                f"{each['tokens_per_s']:6.0f} tokens/s",
                flush=True,
            )
    return rows


def main() -> None:
    """Run all settings and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", help="default: those shipped")
    parser.add_argument("--num-problems", type=int, default=100, help="of each set")
    parser.add_argument("--num-problems-slow", type=int, default=20,
                        help="of each set, with one token per step")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--sets", nargs="+", default=TRAINED_SETS, choices=PROBLEM_SETS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    models = args.models or [
        name for name in ("tiny-llada", "tiny-sdar") if name in shipped_models()
    ]
    started = time.perf_counter()
    rows = [row for model in models for row in study_model(model, args)]
    setting = {
        "models": models, "num_problems": args.num_problems,
        "num_problems_slow": args.num_problems_slow, "seed": args.seed, "split": "test",
        "ignore_eos": False, "batch_size": args.batch_size, "dtype": "float32",
        "canvas_cache": 0, "prefix_caching": False,
        "sets": {name: asdict(PROBLEM_SETS[name]) for name in args.sets},
    }  # fmt: skip
    wall_s = time.perf_counter() - started
    write_result("cache_study", {"setting": setting, "wall_s": wall_s, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
