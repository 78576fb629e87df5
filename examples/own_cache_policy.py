"""A cache policy of your own: written, registered, measured, and held to the rules.

    python examples/own_cache_policy.py [--limit 5]

``dual`` computes the whole active block at every step. This one leaves the block's settled tokens
alone as well: between refreshes it computes masks, and a token once more right after it was put
there. docs/adding_a_cache.md goes through it line by line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.resources import files

from starr_engine import LLM, CacheDrift, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES, CacheView
from starr_engine.cache.refresh import RefreshingCache, active_rows
from starr_engine.cache.rows import RowRanges, intersection, union
from starr_engine.study.tasks import TASKS, Problem
from starr_engine.testing import check_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsettledCache(RefreshingCache):
    """Between refreshes compute what is still open in the active block."""

    @property
    def inner_is_whole_block(self) -> bool:
        """Settled tokens of the block are reused, so block-causal models get no exact label."""
        return False

    def inner(self, view: CacheView) -> RowRanges:
        """Masks of the block, its new tokens, and tokens that the remasking policy looks at."""
        open_rows = union(view.masked, view.dirty, view.scored)
        return intersection(open_rows, (active_rows(view),))


CACHE_POLICIES.add("unsettled", UnsettledCache)


def main() -> None:
    """Measure it against ``none`` and ``dual``, then check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=5, help="problems to run")
    limit = parser.parse_args().limit
    lines = (files("starr_engine") / "assets" / "problems.jsonl").read_text().splitlines()
    problems = [Problem(**json.loads(line)) for line in lines[:limit]]
    prompts = [problem.prompt for problem in problems]

    llm = LLM("tiny-llada")
    print(f"{'':10}{'solved':>8}{'rows/request':>14}{'NFE':>7}{'arg-max flips':>15}  label")
    for name in ("none", "dual", "unsettled"):
        # One token per step gives the cache many steps inside a block.
        params = SamplingParams(remasking="low_confidence", cache=name, cache_probe_rate=0.1)
        outputs = llm.generate(prompts, params)
        solved = sum(
            TASKS[problem.task].score(problem, output.text)
            for problem, output in zip(problems, outputs, strict=True)
        )
        drift = CacheDrift.total([output.drift for output in outputs if output.drift is not None])
        rows = sum(output.computed_rows for output in outputs) / len(outputs)
        nfe = sum(output.nfe for output in outputs) / len(outputs)
        print(
            f"{name:10}{solved / len(problems):>8.1%}{rows:>14.1f}{nfe:>7.2f}"
            f"{drift.flip_rate or 0:>15.2%}  {outputs[0].cache_label}"
        )

    check_cache("unsettled")
    check_cache("unsettled", {"refresh": "never", "suffix_window": 8}, generates=False)
    print("unsettled keeps every rule of the conformance suite")


if __name__ == "__main__":
    main()
