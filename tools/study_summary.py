"""What the committed study of the shipped models found, for the README and docs/study.md.

Draws the accuracy of every setting against its cost, one picture per model, as the study's own
report does. Needs matplotlib (the extra ``study``).

    python -m tools.study_summary
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starr_engine.study.grid.results import RESULTS, read_results
from starr_engine.study.report import figures
from starr_engine.study.report.page import findings
from starr_engine.study.report.settings import Condition, main_conditions, pool

ROOT: Final = Path(__file__).resolve().parent.parent
STUDY: Final = ROOT / "benchmarks" / "results" / "study"
IMAGES: Final = ROOT / "docs" / "images"
COMMAND: Final = "starr-engine study benchmarks/study.yaml --engine num_threads=1 --output OUT"


def conditions() -> list[Condition]:
    """The main condition of each model, all tasks together."""
    return main_conditions(pool(read_results(STUDY)))


def found(images: str) -> str:
    """Pictures and sentences of each model, or the command that measures them.

    Args:
        images: Where the page finds the pictures, with a slash at its end.
    """
    if not (STUDY / RESULTS).exists():
        return f"Not measured yet: `{COMMAND}`.\n"
    parts = []
    for condition in conditions():
        model = condition.model
        sentences = "\n".join(f"- {line}" for line in findings(condition))
        parts.append(
            f"**{model}**\n\n![{model}: accuracy against forwards and tokens per second]"
            f"({images}study_{model}.svg)\n\n{sentences}\n"
        )
    return "\n".join(parts)


def main() -> None:
    """Draw the pictures."""
    for condition in conditions():
        path = IMAGES / f"study_{condition.model}.svg"
        path.write_text(figures.pareto(condition))
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
