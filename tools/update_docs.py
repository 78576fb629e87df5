"""Write the tables of the pages in docs/ from the results, or check them.

python -m tools.update_docs [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tools.cache_tables import cache_tables
from tools.result_tables import DOCS, tables_of
from tools.result_tables import TABLES as TABLES_OF_PAGES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "policies.md"
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "policy_study.json"
CACHES = ROOT / "docs" / "caches.md"

Result = Mapping[str, Any]


def render(document: str, result: Result) -> str:
    """The page on policies with every marked part as the study has it; see ``fill``."""
    return fill(document, {name: table(result) for name, table in TABLES.items()})


def render_caches(document: str, results: Path = RESULTS) -> str:
    """The page on caches with every marked part as the results have it; see ``fill``."""
    return fill(document, cache_tables(results))


def fill(document: str, tables: Mapping[str, str]) -> str:
    """The document with every table between its markers.

    Raises:
        ValueError: If a marker is missing.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, found, rest = document.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the document has no place for {name}: it needs {begin}...{end}")
        document = head + begin + table + end + tail
    return document


def study_table(result: Result) -> str:
    """Every policy over all sets: accuracy, agreement, forwards and speed."""
    lines = [
        "| setting | accuracy, 95 % | agreement, 95 % | NFE | speed-up | TPF | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_overall(row) for row in _rows(result, "table")]
    return "\n".join(lines) + f"\n\n{_how(result)}"


def tasks_table(result: Result) -> str:
    """Every policy by set: accuracy with its interval, forwards, TPF and speed."""
    sets = list(result["setting"]["sets"])
    lines = [
        "| setting | " + " | ".join(f"{name.replace('_', ' ')}" for name in sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for row in _rows(result, "table"):
        cells = [_cell(row["by_set"][name]) for name in sets]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return (
        "\n".join(lines)
        + "\n\n"
        + _paragraph(
            "In a cell: accuracy with its 95 % interval; NFE and its speed-up over one token per "
            "step; TPF; tokens/s."
        )
    )


def ablation_table(result: Result) -> str:
    """STaRR with one term changed each."""
    base = "starr, calibrated" if result["setting"]["calibrated"] else "starr"
    rows = [row for row in _rows(result, "table") if row["name"] == base]
    lines = [
        "| setting | accuracy, 95 % | agreement, 95 % | NFE | speed-up | TPF | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_overall(row) for row in [*rows, *_rows(result, "ablation")]]
    return "\n".join(lines) + "\n"


def comparison_table(result: Result) -> str:
    """Forwards against every rival's curve at equal agreement and at equal accuracy."""
    lines = [
        "| setting | rival's curve | at equal agreement | at equal accuracy |",
        "|---|---|---|---|",
    ]
    at_agreement, at_accuracy = (result["comparisons"][name] for name in ("agreement", "accuracy"))
    for name, curves in at_agreement.items():
        for curve, found in curves.items():
            other = at_accuracy[name][curve]
            lines.append(f"| {name} | {curve} | {_saving(found)} | {_saving(other)} |")
    return (
        "\n".join(lines)
        + "\n\n"
        + _paragraph(
            "Forwards saved against what the rival needs at the level that the setting reaches, "
            "read from straight lines between the points of the rival's curve; 95 % intervals "
            "from a paired bootstrap over the problems. Negative: the rival needs fewer."
        )
    )


TABLES: Final[Mapping[str, Callable[[Result], str]]] = {
    "policy-study": study_table,
    "policy-tasks": tasks_table,
    "policy-ablation": ablation_table,
    "policy-comparison": comparison_table,
}


def _rows(result: Result, kind: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["kind"] == kind]


def _overall(row: Mapping[str, Any]) -> str:
    each = row["overall"]
    return (
        f"| {row['name']} | {_share(each['accuracy'], each['accuracy_interval'])} "
        f"| {_share(each['agreement'], each['agreement_interval'])} | {each['nfe']:.2f} "
        f"| {each['speedup']:.2f}x | {each['tpf']:.2f} | {each['tokens_per_s']:.0f} |"
    )


def _cell(each: Mapping[str, Any]) -> str:
    return (
        f"{_share(each['accuracy'], each['accuracy_interval'])}; {each['nfe']:.2f}, "
        f"{each['speedup']:.1f}x; {each['tpf']:.1f}; {each['tokens_per_s']:.0f}"
    )


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def _saving(found: Mapping[str, Any]) -> str:
    if found["fewer"] is None:
        return f"{found['level']:.1%}: the curve does not reach it"
    text = f"{found['level']:.1%}: {found['fewer']:+.1%}"
    if found["fewer_interval"] is not None:
        low, high = found["fewer_interval"]
        text += f" [{low:+.1%}, {high:+.1%}]"
    return text


def _how(result: Result) -> str:
    setting, environment = result["setting"], result["environment"]
    eos = "off" if setting["ignore_eos"] else "on"
    blocks = sorted({(each["max_tokens"], each["block_length"]) for each in _sets(setting)})
    canvas = ", ".join(f"{tokens} new tokens in blocks of {block}" for tokens, block in blocks)
    return _paragraph(
        f"`python -m benchmarks.policy_study`: {setting['model']} ({setting['dtype']}), "
        f"{setting['num_problems']} unseen problems of each of {len(setting['sets'])} sets, "
        f"{canvas}, cache `{setting['cache']}`, early stop at EOS {eos}, batch "
        f"{setting['batch_size']}; {environment['cpu']}, {environment['num_threads']} threads, "
        f"torch {environment['versions']['torch']}, {environment['date'][:10]}, commit "
        f"{str(environment['commit'])[:7]} ([result](../benchmarks/results/policy_study.json)). "
        "Agreement is the share of outputs that are identical to those of one token per step. The "
        "speed-up is in forwards, the mean over the sets."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def _sets(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(setting["sets"].values())


def main() -> int:
    """Rewrite, or with ``--check`` say whether it is needed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if outdated")
    args = parser.parse_args()
    others = {DOCS / page: page for page in TABLES_OF_PAGES}
    before = {path: path.read_text() for path in (DOCUMENT, CACHES, *others)}
    after = {
        DOCUMENT: render(before[DOCUMENT], json.loads(RESULT.read_text())),
        CACHES: render_caches(before[CACHES]),
        **{path: fill(before[path], tables_of(page)) for path, page in others.items()},
    }
    if args.check:
        return int(before != after)
    for path, text in after.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
