"""A remasking policy of your own: written, registered, measured, and held to the rules.

    python examples/own_policy.py [--limit 24]

To offer it in an installed package instead, leave out the line with ``add`` and put this into the
package's pyproject.toml:

    [project.entry-points."starr_engine.remasking_policies"]
    left_run = "your_package.your_module:LeftRunPolicy"
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.resources import files

from starr_engine import LLM, SamplingParams
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.errors import RequestError
from starr_engine.study.tasks import TASKS, Problem
from starr_engine.testing import check_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftRunPolicy(StatelessPolicy):
    """Sure tokens go anywhere, fairly sure ones while nothing to their left is missing."""

    sure: float = 0.9
    fair: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.fair <= self.sure:
            raise RequestError(f"fair must lie in [0, sure={self.sure}], got {self.fair}")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        is_fair = ~view.masked | (view.confidence >= self.fair)
        from_the_left = is_fair.cumprod(1).bool()
        is_sure = view.confidence >= self.sure
        return Decision(unmask=view.masked & (is_sure | from_the_left)), state


REMASKING_POLICIES.add("left_run", LeftRunPolicy)


def main() -> None:
    """Measure it against the static threshold, then check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=24, help="problems to run")
    limit = parser.parse_args().limit
    lines = (files("starr_engine") / "assets" / "problems.jsonl").read_text().splitlines()
    problems = [Problem(**json.loads(line)) for line in lines[:limit]]

    llm = LLM("tiny-llada")
    print(f"{'':12}{'solved':>8}{'NFE/request':>13}{'TPF':>7}")
    for name in ("threshold", "left_run"):
        params = SamplingParams(max_tokens=64, block_length=32, remasking=name, cache="none")
        outputs = llm.generate([problem.prompt for problem in problems], params)
        solved = sum(
            TASKS[problem.task].score(problem, output.text)
            for problem, output in zip(problems, outputs, strict=True)
        )
        nfe = sum(output.nfe for output in outputs)
        tpf = sum(output.num_unmasked for output in outputs) / nfe
        print(f"{name:12}{solved / len(problems):>8.1%}{nfe / len(problems):>13.2f}{tpf:>7.2f}")

    check_policy(LeftRunPolicy())
    check_policy(LeftRunPolicy(sure=0.5, fair=0.1))
    print("left_run keeps every rule of the conformance suite")


if __name__ == "__main__":
    main()
