"""The tables of docs/caches.md, from the committed results of the cache benchmarks."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

Result = Mapping[str, Any]


def study_table(result: Result) -> str:
    """Every cache setting under every remasking policy: accuracy, forwards, rows and speed."""
    lines: list[str] = []
    for model in result["setting"]["models"]:
        rows = [row for row in result["rows"] if row["model"] == model]
        for remasking in dict.fromkeys(row["remasking"] for row in rows):
            chosen = [row for row in rows if row["remasking"] == remasking]
            lines += [
                f"{model}, {remasking}, {chosen[0]['num_problems']} problems of each set:",
                "",
                "| cache | label | accuracy, 95 % | same output as without cache, 95 % | NFE "
                "| rows per request | fewer rows | tokens/s |",
                "|---|---|---|---|---|---|---|---|",
                *(_study_row(row) for row in chosen),
                "",
            ]
    setting = result["setting"]
    how = (
        f"`python -m benchmarks.cache_study`: {', '.join(setting['models'])} "
        f"({setting['dtype']}), unseen problems of {len(setting['sets'])} sets, early stop at EOS "
        f"on, batch {setting['batch_size']}, no sharing between requests; "
        f"{_machine(result, 'cache_study')}. Rows are token rows computed, over all forwards of a "
        "request. Sameness is with cache `none` under the same remasking policy."
    )
    return "\n".join(lines) + "\n" + _paragraph(how)


def rows_table(result: Result) -> str:
    """Rows and seconds of every policy and size, against no cache."""
    lines = [
        "| model | prompt | batch | cache | rows per request | fewer rows | timed | ms/step "
        "| faster | tokens/s | pages, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_size_row(row) for row in result["rows"]]
    setting = result["setting"]
    sizes = sorted(set(setting["num_parameters"].values()))
    millions = " and ".join(f"{size / 1e6:.1f}" for size in sizes)
    how = (
        f"`python -m benchmarks.bench_caches`: random models of {millions} M parameters in the "
        f"published formats, {setting['dtype']}, vocabulary {setting['vocab_size']:,}; "
        f"{setting['max_tokens']} new tokens, one per step, in blocks of "
        f"{setting['block_length']}; {_machine(result, 'caches')}. Rows are those of a complete "
        "request. *Timed* is how many steps of a full batch were run, from the request's first; "
        "of `none` steps are alike within a block, of all others whole blocks are timed. *Faster* "
        "compares seconds per step with `none` of the same model and size; a dash stands where "
        "one block was too much to time. Pages are those in use at most, with keys and "
        "values; what `dllm` keeps beside them is not counted."
    )
    return "\n".join(lines) + "\n\n" + _paragraph(how)


def pool_table(result: Result) -> str:
    """The C++ pool against plain Python, and bookkeeping per engine step."""
    lines = []
    for managers in result["managers"]:
        work = managers["workload"]
        how = (
            f"Prompts of {work['prompt']:,} tokens, {work['running']} running requests of "
            f"{work['rows']:,} rows that share {work['num_prefixes']} prefixes of "
            f"{work['shared']:,} tokens; {work['num_pages']:,} pages of {work['page_size']} rows; "
            f"{work['timed_requests']:,} requests come and as many go, {work['evictions']:,} pages "
            f"are evicted, at the least {work['fewest_free_pages']} can be had."
        )
        lines += [
            _paragraph(how),
            "| per request | C++, us | plain Python, us | ratio |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {_OPERATIONS[name]} | {row['cpp_us']:.2f} | {row['python_us']:.1f} "
            f"| {row['ratio']:.1f}x |"
            for name, row in managers["rows"].items()
        ]
        lines.append("")
    how = (
        "`python -m benchmarks.bench_page_pool`. Both hand out the same pages, which is checked "
        "before anything is timed."
    )
    steps = [
        "| cache | running requests | schedule and plans, ms | batch, ms | decisions carried out, "
        "ms | together, ms per step |",
        "|---|---|---|---|---|---|",
    ]
    steps += [
        f"| `{row['cache']}` | {row['num_requests']} | "
        + " | ".join(f"{1e3 * row[part]['median_s']:.2f}" for part in _PARTS)
        + " |"
        for row in result["steps"]
    ]
    also = (
        "Medians over the steps of an engine whose forward is a stub; the decoder is not counted; "
        f"{_machine(result, 'page_pool')}."
    )
    return (
        "\n".join(lines) + f"\n{_paragraph(how)}\n" + "\n".join(steps) + f"\n\n{_paragraph(also)}"
    )


TABLES: Final[Mapping[str, tuple[str, Callable[[Result], str]]]] = {
    "cache-study": ("cache_study", study_table),
    "cache-rows": ("caches", rows_table),
    "page-pool": ("page_pool", pool_table),
}
"""Marker to the name of the result, which is a file in benchmarks/results, and its table."""

_OPERATIONS: Final = {
    "admit": "admit: match and allocate at once",
    "match": "match alone",
    "allocate": "allocate alone",
    "seal": "seal the prompt",
    "free": "free the pages",
    "together": "admit and free",
}
_PARTS: Final = ("schedule", "build", "apply", "total")
_SCRIPTS: Final = {
    "cache_study": "cache_study",
    "caches": "bench_caches",
    "page_pool": "bench_page_pool",
}


def cache_tables(results: Path) -> dict[str, str]:
    """All tables by their marker; a result that is not there yet is named instead."""
    tables = {}
    for marker, (name, table) in TABLES.items():
        path = results / f"{name}.json"
        tables[marker] = (
            table(json.loads(path.read_text()))
            if path.exists()
            else f"Not measured yet: `python -m benchmarks.{_SCRIPTS[name]}`.\n"
        )
    return tables


def _study_row(row: Result) -> str:
    each = row["overall"]
    return (
        f"| {row['name']} | {row['label']} "
        f"| {_share(each['accuracy'], each['accuracy_interval'])} "
        f"| {_share(each['agreement'], each['agreement_interval'])} | {each['nfe']:.2f} "
        f"| {each['rows']:.0f} | {each['rows_ratio']:.2f}x | {each['tokens_per_s']:.0f} |"
    )


def _size_row(row: Result) -> str:
    timed = row["timed"]
    head = (
        f"| {row['model'].replace('_', '-')} | {row['prompt_len']} | {row['batch']} "
        f"| `{row['cache']}` | {row['rows_per_request']:,} | {_times(row.get('rows_ratio'))}"
    )
    if timed is None:
        return f"{head} | - | - | - | - | - |"
    steps = "whole" if timed["is_whole"] else f"{timed['steps']} steps"
    return (
        f"{head} | {steps} | {1e3 * timed['s_per_step']:.0f} | {_times(row['time_ratio'])} "
        f"| {timed['tokens_per_s']:.1f} | {timed['peak_pool_bytes'] / 2**20:.0f} |"
    )


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}x"


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def _machine(result: Result, name: str) -> str:
    environment = result["environment"]
    return (
        f"{environment['cpu']}, {environment['num_threads']} threads, torch "
        f"{environment['versions']['torch']}, {environment['date'][:10]}, commit "
        f"{str(environment['commit'])[:7]} ([result](../benchmarks/results/{name}.json))"
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"
