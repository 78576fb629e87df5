"""Policy x task on the shipped model's unseen problems: accuracy, agreement, forwards, speed.

Every setting of ``policy_settings.py`` decodes the same problems, with one engine, one cache, one
EOS setting and the block length of each set. Agreement is with one token per step under the same
cache, whose outputs are kept in ``out/policy_study`` for the next run. Prompts are of the split
``test``; calibration uses ``demo``, training ``train``.

    python -m benchmarks.policy_study [--num-problems 100] [--cache none] [--output FILE]
"""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, write_result
from benchmarks.policy_settings import CALIBRATED, REFERENCE, Setting, study_settings
from starr_engine import LLM, SamplingParams
from starr_engine.environment import environment
from starr_engine.models.loading.locate import resolve_model
from starr_engine.outputs import RequestOutput
from starr_engine.study.agreement import equal_share, is_identical
from starr_engine.study.calibration.outcomes import Outcome, summarize
from starr_engine.study.comparison import Measured, compare_all
from starr_engine.study.intervals import mean
from starr_engine.study.policy_file import load_policy_args
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.references import (
    References,
    SetOutputs,
    fingerprint_of,
    load_or_make,
    model_fingerprint,
)
from starr_engine.study.runner import Work, run_work
from starr_engine.study.tasks import ALL_TASKS, Problem

POLICY_FILE = RESULTS / "starr_policy.json"
REFERENCES = Path("out/policy_study")

Problems = Mapping[str, Sequence[Problem]]


class Study:
    """All problems, one engine, and how outputs become numbers.

    Args:
        llm: Runs everything.
        problems: By set.
        cache: Cache policy of the reference, and of every setting that names none.
        ignore_eos: EOS setting of every setting.
    """

    def __init__(self, llm: LLM, problems: Problems, *, cache: str, ignore_eos: bool) -> None:
        self.problems = problems
        self._llm = llm
        self._cache = cache
        self._ignore_eos = ignore_eos
        self._prompts = {
            name: [tuple(llm.tokenizer.encode(problem.prompt)) for problem in each]
            for name, each in problems.items()
        }

    def references(self, folder: Path) -> References:
        """One token per step, from the folder if it was run before."""
        config = self._llm.engine.config
        fingerprint = fingerprint_of(
            {
                "weights": model_fingerprint(resolve_model(config.model)),
                "dtype": config.dtype,
                "device": config.device,
                "torch": torch.__version__,
                "batch": config.max_num_requests,
                "prompts": self._prompts,
                "sets": {name: asdict(PROBLEM_SETS[name]) for name in self.problems},
                "cache": self._cache,
                "ignore_eos": self._ignore_eos,
            }
        )

        def make() -> References:
            outputs = self.run(Setting(policy="low_confidence"))
            return References(by_set=outputs, environment=environment())

        return load_or_make(folder, fingerprint, make)

    def run(self, setting: Setting) -> dict[str, SetOutputs]:
        """One setting on all sets, one set after the other, each in a full batch."""
        return {name: self._run_set(name, setting) for name in self.problems}

    def _run_set(self, name: str, setting: Setting) -> SetOutputs:
        each = PROBLEM_SETS[name]
        # The mask of a block-causal model says where blocks end.
        block_length = each.block_length if self._llm.engine.spec.block_length is None else None
        params = SamplingParams(
            max_tokens=each.max_tokens,
            block_length=block_length,
            remasking=setting.policy,
            remasking_args=setting.args,
            cache=setting.cache or self._cache,
            cache_args=setting.cache_args,
            ignore_eos=self._ignore_eos,
        )
        found: dict[int, RequestOutput] = {}
        started = time.perf_counter()
        run_work(
            self._llm.engine,
            [
                Work(key=at, prompt_token_ids=prompt, params=params)
                for at, prompt in enumerate(self._prompts[name])
            ],
            found.__setitem__,
        )
        wall_s = time.perf_counter() - started
        outputs = [found[at] for at in range(len(found))]
        return SetOutputs(
            token_ids=[output.token_ids for output in outputs],
            texts=[output.text for output in outputs],
            nfe=[output.nfe for output in outputs],
            num_unmasked=[output.num_unmasked for output in outputs],
            wall_s=wall_s,
            computed_rows=tuple(output.computed_rows for output in outputs),
            cache_label=outputs[0].cache_label,
        )

    def outcomes(
        self, outputs: Mapping[str, SetOutputs], references: References
    ) -> dict[str, list[Outcome]]:
        """Scored and compared, by set."""
        return {
            name: self._set_outcomes(name, each, references.by_set[name])
            for name, each in outputs.items()
        }

    def _set_outcomes(self, name: str, outputs: SetOutputs, reference: SetOutputs) -> list[Outcome]:
        task = ALL_TASKS[PROBLEM_SETS[name].task]
        solved = task.score_many(self.problems[name], outputs.texts)
        return [
            Outcome(
                nfe=outputs.nfe[at],
                num_unmasked=outputs.num_unmasked[at],
                is_identical=is_identical(outputs.token_ids[at], reference.token_ids[at]),
                equal_share=equal_share(outputs.token_ids[at], reference.token_ids[at]),
                is_solved=solved[at],
            )
            for at in range(len(solved))
        ]


def numbers(
    outcomes: Mapping[str, Sequence[Outcome]],
    outputs: Mapping[str, SetOutputs],
    reference: Mapping[str, Sequence[Outcome]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of one setting: over all sets, and by set.

    The speed-up over all sets is the mean of the sets' own, as papers average over tasks; other
    means are over all problems, of which every set has as many.
    """
    by_set = {}
    for name, each in outcomes.items():
        base = sum(outcome.nfe for outcome in reference[name])
        by_set[name] = {
            **asdict(summarize(each)),
            "tokens_per_s": outputs[name].tokens_per_s,
            "speedup": base / sum(outcome.nfe for outcome in each),
        }
    pooled = [outcome for each in outcomes.values() for outcome in each]
    num_tokens = sum(len(ids) for each in outputs.values() for ids in each.token_ids)
    overall = {
        **asdict(summarize(pooled)),
        "tokens_per_s": num_tokens / sum(each.wall_s for each in outputs.values()),
        "speedup": mean(each["speedup"] for each in by_set.values()),
    }
    return overall, by_set


def comparisons(
    settings: Mapping[str, Setting], outcomes: Mapping[str, Mapping[str, Sequence[Outcome]]]
) -> dict[str, Any]:
    """STaRR against every rival's curve, at its own agreement and at its own accuracy."""
    result: dict[str, Any] = {}
    for measure in ("prompts", "accuracy"):
        measured = {
            name: Measured(
                cost=[outcome.nfe for each in found.values() for outcome in each],
                level=[outcome.level(measure) for each in found.values() for outcome in each],
            )
            for name, found in outcomes.items()
        }
        curves: dict[str, list[Measured]] = {}
        for name, setting in settings.items():
            if setting.kind == "curve" and name in measured:
                curves.setdefault(setting.curve, []).append(measured[name])
        chosen = {name: measured[name] for name in ("starr", CALIBRATED) if name in measured}
        rivals = {name: points for name, points in curves.items() if name != "starr"}
        found = compare_all(chosen, rivals)
        result["agreement" if measure == "prompts" else measure] = {
            name: {curve: asdict(each) for curve, each in by_curve.items()}
            for name, by_curve in found.items()
        }
    return result


def main() -> None:
    """Run all settings and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tiny-llada")
    parser.add_argument("--num-problems", type=int, default=100, help="of each set")
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--sets", nargs="+", default=TRAINED_SETS, choices=PROBLEM_SETS)
    parser.add_argument("--cache", default="none", help="cache policy of every setting")
    parser.add_argument("--ignore-eos", action="store_true", help="EOS setting of every setting")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", metavar="PATTERN", help="run the settings of this shell pattern")
    parser.add_argument(
        "--calibrated",
        type=Path,
        default=POLICY_FILE,
        help="policy file of the setting 'starr, calibrated' (default: %(default)s)",
    )
    parser.add_argument("--references", type=Path, default=REFERENCES, help="folder")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    calibrated = load_policy_args(args.calibrated, "starr") if args.calibrated.exists() else None
    if calibrated is None:
        print(f"{args.calibrated} does not exist: '{CALIBRATED}' is left out")
    settings = study_settings(calibrated)
    if args.only:
        settings = {
            name: each
            for name, each in settings.items()
            if name == REFERENCE or fnmatch.fnmatch(name, args.only)
        }
    llm = LLM(
        args.model,
        device=args.device,
        dtype="float32",
        max_num_requests=args.batch_size,
        num_threads=args.threads,
    )
    problems = {
        name: PROBLEM_SETS[name].problems("test", args.num_problems, args.seed)
        for name in args.sets
    }
    study = Study(llm, problems, cache=args.cache, ignore_eos=args.ignore_eos)
    started = time.perf_counter()
    references = study.references(args.references)
    print(f"one token per step: made {references.environment['date']}", flush=True)

    rows: list[dict[str, Any]] = []
    outcomes: dict[str, dict[str, list[Outcome]]] = {}
    for name, setting in settings.items():
        outputs = references.by_set if name == REFERENCE else study.run(setting)
        outcomes[name] = study.outcomes(outputs, references)
        overall, by_set = numbers(outcomes[name], outputs, outcomes[REFERENCE])
        rows.append({"name": name, **asdict(setting), "overall": overall, "by_set": by_set})
        print(
            f"{name:28} NFE {overall['nfe']:6.2f}  {overall['speedup']:5.2f}x  "
            f"agreement {overall['agreement']:.3f}  accuracy {overall['accuracy']:.3f}",
            flush=True,
        )
    result = {
        "setting": {
            "model": args.model,
            "num_problems": args.num_problems,
            "seed": args.seed,
            "split": "test",
            "cache": args.cache,
            "ignore_eos": args.ignore_eos,
            "batch_size": args.batch_size,
            "dtype": "float32",
            "sets": {name: asdict(PROBLEM_SETS[name]) for name in args.sets},
            "calibrated": calibrated,
        },
        "reference_environment": references.environment,
        "wall_s": time.perf_counter() - started,
        "rows": rows,
        "comparisons": comparisons(settings, outcomes),
    }
    write_result("policy_study", result, args.output)


if __name__ == "__main__":
    main()
