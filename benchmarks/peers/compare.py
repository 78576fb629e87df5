"""Equal outputs first, then times, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import summary
from benchmarks.peers.asked import Run, System
from benchmarks.peers.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two systems that must give the same tokens."""

    system: str
    equal_to: str
    rows: int
    differing: tuple[int, ...]
    """Indices of the prompts on which they do not."""


def check(systems: Sequence[System], runs: Mapping[str, Run]) -> list[Pair]:
    """Compare the tokens of all systems that must be equal."""
    pairs = []
    for system in systems:
        if system.equal_to is None:
            continue
        both = zip(runs[system.name].outputs, runs[system.equal_to].outputs, strict=True)
        differing = tuple(at for at, (a, b) in enumerate(both) if a.token_ids != b.token_ids)
        pairs.append(
            Pair(
                system=system.name,
                equal_to=system.equal_to,
                rows=len(runs[system.name].outputs),
                differing=differing,
            )
        )
    return pairs


def compare(systems: Sequence[System], workload: Workload, repeats: int) -> dict[str, Any]:
    """Run all systems once to check them and warm up, then those that passed in turns.

    Both systems of a pair that differs keep their counts and lose their times.

    Args:
        systems: With names of their own; those that others must equal among them.
        workload: Prompts.
        repeats: Timed runs of each, at least 2.

    Returns:
        ``rows``, one of each system, and ``pairs``.
    """
    first = {system.name: system.run(workload.prompts) for system in systems}
    pairs = check(systems, first)
    failed = [pair for pair in pairs if pair.differing]
    withheld = {name for pair in failed for name in (pair.system, pair.equal_to)}
    timed: dict[str, list[Run]] = {each.name: [] for each in systems if each.name not in withheld}
    for _ in range(repeats):
        for system in systems:
            if system.name in timed:
                timed[system.name].append(system.run(workload.prompts))
    rows = [
        _row(system, first[system.name], workload) | _times(timed.get(system.name))
        for system in systems
    ]
    speed = {row["name"]: row["tokens_per_s"] for row in rows}
    for row in rows:
        print(_line(row), flush=True)
    for pair in failed:
        print(
            f"DIFFERENT: {pair.system} and {pair.equal_to} on {len(pair.differing)} of "
            f"{pair.rows} prompts; the times of both are withheld",
            flush=True,
        )
    return {
        "rows": rows,
        "pairs": [
            {
                "system": pair.system,
                "equal_to": pair.equal_to,
                "rows": pair.rows,
                "differing": list(pair.differing),
                "speed_ratio": _ratio(speed[pair.equal_to], speed[pair.system]),
            }
            for pair in pairs
        ],
    }


def _row(system: System, run: Run, workload: Workload) -> dict[str, Any]:
    outputs = run.outputs
    scored = workload.accuracy([output.token_ids for output in outputs])
    return {
        "name": system.name,
        "side": system.side,
        "procedure": system.procedure,
        "batch": system.batch,
        "differs": system.differs,
        "accuracy": None if scored is None else scored[0],
        "accuracy_interval": None if scored is None else scored[1],
        "tokens": run.tokens,
        "nfe": sum(output.nfe for output in outputs) / len(outputs),
        "forwards": run.forwards,
        "computed_rows": sum(output.rows for output in outputs),
    }


def _times(runs: Sequence[Run] | None) -> dict[str, Any]:
    if runs is None:
        return {"withheld": True, "tokens_per_s": None, "latency_s": None, "samples_s": None}
    whole = summary([run.seconds for run in runs])
    tokens = runs[0].tokens
    return {
        "withheld": False,
        "tokens_per_s": {
            "median": tokens / whole["median_s"],
            "q1": tokens / whole["q3_s"],
            "q3": tokens / whole["q1_s"],
        },
        "latency_s": summary([output.seconds for run in runs for output in run.outputs]),
        "samples_s": [run.seconds for run in runs],
    }


def _ratio(a: Mapping[str, float] | None, b: Mapping[str, float] | None) -> float | None:
    """How many times as fast the first is."""
    return None if a is None or b is None else a["median"] / b["median"]


def _line(row: Mapping[str, Any]) -> str:
    accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.2f}  "
    speed = "times withheld"
    if not row["withheld"]:
        latency = row["latency_s"]["median_s"]
        speed = f"{row['tokens_per_s']['median']:8.1f} tokens/s  {latency:7.3f} s per prompt"
    return f"{row['name']:55} {accuracy}NFE {row['nfe']:6.1f}  {speed}"
