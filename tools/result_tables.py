"""Tables of the pages in docs/ that ``TABLES`` names, from the committed results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tools.markdown import fill, grid, share
from tools.peer_table import peers

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
RESULTS: Final = ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]


def command(name: str) -> str:
    """What writes a result file."""
    if name == "peers":
        return "python -m benchmarks.peers"
    if name == "sampling":
        return "python -m benchmarks.bench_kernels --ops gumbel_argmax --memory-gb 6 --threads 1"
    script = name.removesuffix("_50m").removesuffix("_fp8")
    flag = " --fp8-on-cpu" if name.endswith("_fp8") else ""
    return f"python -m benchmarks.bench_{script}{flag}"


def source(name: str, result: Result) -> str:
    """How a result came about: command, machine, commit."""
    environment = result["environment"]
    text = (
        f"`{command(name)}`: {environment['cpu']}, "
        f"{environment['num_threads']} threads, torch {environment['versions']['torch']}, "
        f"{environment['date'][:10]}, commit {str(environment['commit'])[:7]} "
        f"([result](../benchmarks/results/{name}.json))."
    )
    return "\n" + textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def load_memory(result: Result) -> str:
    """Peaks above the weights."""
    rows = [
        [
            row["dtype"], row["quantization"], _gigabytes(row["weights_bytes"]),
            _gigabytes(row["peak_bytes"]), f"{row['above_weights_bytes'] / 1e6:.0f} MB",
            f"{row['seconds']:.1f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    what = (
        f"\nA random checkpoint in bfloat16, {result['checkpoint']}, "
        f"{_gigabytes(result['stored_bytes'])} in {result['num_shards']} shards:\n\n"
    )
    header = ["dtype", "quantization", "weights", "peak of memory", "above the weights", "seconds"]
    return what + grid(header, rows)


def quantization(result: Result) -> str:
    """Accuracy of quantised weights beside controls of fewer bits."""
    rows = []
    for row in result["rows"]:
        weights = str(row["quantization"])
        is_control = weights.startswith("control")
        rows.append(
            [
                f"`{row['model']}`",
                row["dtype"] if weights == "none" else weights,
                "" if is_control else f"{row['weight_bytes'] / 1e6:.2f} MB",
                f"{row['overall']['accuracy']:.2%}".replace("%", " %"),
                f"{row['overall']['agreement']:.2%}".replace("%", " %"),
                f"{row['logits']['relative_rms']:.1%}".replace("%", " %"),
            ]
        )
    header = ["model", "weights", "bytes", "accuracy", "identical outputs", "error of logits"]
    return grid(header, rows)


def ray(result: Result) -> str:
    """Scaling, overhead and what two kills cost."""
    scaling, overhead, faults = result["scaling"], result["overhead"], result["faults"]
    speed = scaling["tokens_per_s"]
    rows = [
        ["one process, no Ray", f"{speed['in_process']:.0f}", ""],
        ["one worker of one core", f"{speed['workers_1']:.0f}",
         f"{scaling['one_over_in_process']:.2f} of one process"],
        ["two workers of one core each", f"{speed['workers_2']:.0f}",
         f"{scaling['two_over_one']:.2f} of one worker"],
    ]  # fmt: skip
    took, kept = overhead["us_per_row"], faults["every_row_once"]
    costs = (
        f"\nWith an engine that answers at once, on one core, a row of "
        f"{overhead['prompt_tokens']} tokens takes {took['in_process']:.0f} us in one process and "
        f"{took['worker']:.0f} us through a worker. A job of {faults['rows']:,} rows took "
        f"{faults['undisturbed_s']:.0f} s undisturbed and {faults['with_two_kills_s']:.0f} s with "
        f"a worker killed after a third and the driver after two thirds. Every row once: "
        f"{_yes(kept)}; same bytes: {_yes(faults['same_bytes'])}; processes left: "
        f"{faults['processes_left']}."
    )
    return grid([f"{scaling['rows']:,} rows", "tokens/s", ""], rows) + fill(costs)


def server(result: Result) -> str:
    """What the server adds to the engine."""
    names = {
        "llm": "one call of `LLM.generate`",
        "async_llm": "`AsyncLLM`",
        "http": "HTTP, whole answers",
        "http_stream": "HTTP, streams",
    }
    rows = [
        [
            names[row["way"]], f"{row['tokens_per_s']:.0f}",
            "" if row["way"] == "llm" else _loss(row),
            f"{row['median_cpu_s']:.2f}",
            f"{row['median_client_cpu_s']:.3f}" if "http" in row["way"] else "",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    setting = result["setting"]
    what = (
        f"{setting['requests']} requests of {setting['prompt_len']} tokens for "
        f"{setting['max_tokens']} more, {setting['concurrency']} at once; model: "
        f"{setting['model']}, which has {setting['threads']} thread. Lost: median and range of "
        f"{setting['repeats']} rounds, each against `LLM.generate` of the same round. CPU seconds "
        "are those of engine and server together; the client is a process of its own."
    )
    header = ["", "tokens/s", "lost", "CPU seconds", "of the client"]
    return fill(what) + "\n" + grid(header, rows)


def _loss(row: Mapping[str, Any]) -> str:
    low, high = row["loss_range"]
    text = f"{row['loss_of_tokens_per_s']:+.1%} ({low:+.1%} to {high:+.1%})"
    return text.replace("%", " %")


def server_load(result: Result) -> str:
    """Many clients, of which some leave."""
    setting, memory, first = result["setting"], result["memory_mib"], result["first_block_s"]
    ends = ", ".join(f"{name} {count}" for name, count in sorted(result["ends"].items()))
    return fill(
        f"\n{setting['clients']} streams at once for {result['elapsed_s']:.0f} s, a share of "
        f"{setting['gone']} of which leave early: {ends}; failed: {result['num_failed']}. Time to "
        f"the first block: p50 {first['p50']:.1f} s, p99 {first['p99']:.1f} s. Memory: "
        f"{memory['second_quarter']:.0f} MiB in the second quarter, {memory['last_quarter']:.0f} "
        f"MiB in the last."
    )


def overhead_model(result: Result) -> str:
    """The engine against a bare loop."""
    rows = [
        [
            str(row["batch"]), row["cache"], f"{row['engine_step_ms']:.2f}",
            f"{row['bare_step_ms']:.2f}", f"{row['overhead']:+.1%}".replace("%", " %"),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return grid(["batch", "cache", "engine, ms per step", "bare loop, ms", "difference"], rows)


def batching(result: Result) -> str:
    """Continuous against static batching."""
    rows = [
        [
            row["mode"], f"{row['tokens_per_s']:.0f}", str(row["steps"]),
            f"{row['mean_batch']:.1f}", f"{row['over_dense']:.2f}x",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return grid(["mode", "tokens/s", "steps", "mean batch", "over the first"], rows)


def sampling(result: Result) -> str:
    """Drawing tokens, by size and dtype: medians in milliseconds."""
    sizes = dict.fromkeys((row["shape"], row["dtype"]) for row in result["results"])
    found = {(row["shape"], row["dtype"], row["name"]): row for row in result["results"]}
    names = list(dict.fromkeys(row["name"] for row in result["results"]))
    rows = [
        [*size, *(f"{1e3 * found[*size, name]['median_s']:.1f}" for name in names)]
        for size in sizes
    ]
    return grid(["rows x vocabulary", "dtype", *names], rows)


def batch_scaling(result: Result) -> str:
    """Tokens per second by batch size."""
    rows = [
        [
            str(row["batch"]), f"{row['result']['tokens_per_s']:.0f}",
            f"{row['profile']['roofline']['all']['share']:.0%}".replace("%", " %"),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return grid(["batch", "tokens/s", "of the roofline"], rows)


def growth(result: Result) -> str:
    """The engine's own cost per step by requests and by prompt."""
    rows = [
        [
            f"`{row['cache']}`", f"{row['requests']:,}", f"{row['prompt']:,}",
            f"{1e3 * row['s']:.2f}", f"{1e6 * row['s'] / row['requests']:.0f}",
        ]
        for part in ("by_requests", "by_prompt")
        for row in result[part]
    ]  # fmt: skip
    powers = "; ".join(
        f"`{cache}` with {what} as its power {each['all']:.2f}"
        for cache, found in result["growth"].items()
        for what, each in found.items()
    )
    header = ["cache", "requests", "prompt", "ms per step", "us per request"]
    return grid(header, rows) + fill(f"Grows: {powers}.")


def scheduler(result: Result) -> str:
    """Simulated traces."""
    rows = [
        [
            str(row["places"]), row["mode"],
            f"{row['arrival_rate']:.0f}/s" if row["arrival_rate"] else "all at once",
            f"{row['tokens_per_s']:.0f}", f"{1e3 * row['step']['p50_s']:.0f}",
            f"{1e3 * row['step']['p99_s']:.0f}", f"{row['first_block']['p50_s']:.2f}",
            f"{row['first_block']['p99_s']:.2f}", str(row["longest_wait_steps"]),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    header = [
        "places", "mode", "arrivals", "tokens/s", "step p50, ms", "p99, ms", "first block p50, s",
        "p99, s", "longest wait, steps",
    ]  # fmt: skip
    return grid(header, rows)


def tasks(result: Result) -> str:
    """Accuracy with its interval, by task, model and policy."""
    found = {(row["set"], row["model"], row["remasking"]): row for row in result["rows"]}
    columns = list(dict.fromkeys((model, policy) for _, model, policy in found))
    rows = [
        [f"`{name}`", *(share(found[name, model, policy]) for model, policy in columns)]
        for name in dict.fromkeys(name for name, _, _ in found)
    ]
    header = ["task", *(f"`{model}`, `{policy}`" for model, policy in columns)]
    setting = result["setting"]
    how = (
        f"Share of {setting['num_problems']} problems of the split `{setting['split']}`, in "
        f"brackets the 95 % interval; cache {setting['cache']}, {setting['dtype']}."
    )
    return grid(header, rows) + fill(how)


def recommendations(result: Result) -> str:
    """What was recommended, and how it does on problems that did not choose it."""
    rows = []
    for row in result["rows"]:
        chosen, fresh = row["recommendation"]["recommended"], row["fresh"]
        default = row["recommendation"]["default"]
        head = [f"`{row['model']}`", f"`{row['set']}`", row["objective"]]
        if chosen is None:
            rows.append([*head, "nothing", *[""] * 5])
            continue
        rows.append(
            [
                *head,
                chosen["setting"] + (" (default)" if chosen["setting"] == default else ""),
                _points(chosen),
                _points(fresh),
                share(fresh),
                f"{fresh['nfe']:.1f}",
                f"{fresh['faster']:.1f}x",
            ]
        )  # fmt: skip
    setting = result["setting"]
    what = (
        f"\nUp to {setting['num_prompts']} problems that chose, {setting['num_fresh']} fresh ones, "
        f"a loss of at most {100 * setting['max_loss']:g} points. Accuracy, forwards and speed-up "
        "against the baseline are those on fresh problems, of one run, at batch 1 for latency and "
        "16 for throughput.\n"
    )
    header = ["model", "task", "wanted", "recommended", "loss, points", "fresh: loss, points",
              "accuracy", "forwards", "faster"]  # fmt: skip
    return grid(header, rows) + fill(what)


def _points(verdict: Mapping[str, Any]) -> str:
    low, high = verdict["loss_interval"]
    return f"{100 * verdict['loss']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def replicas(result: Result) -> str:
    """What messages of replicas cost, what a replica costs, and what a death does."""
    events, overhead, death = result["events"], result["overhead"], result["death"]
    names = {
        "by_request": "a stream per request, as it is",
        "by_step": "one stream, with a message per step of all requests",
    }
    costs = [
        [
            text,
            f"{events[name]['events_per_s']:.0f}",
            f"{events[name]['replica_cpu_s_per_event'] * 1000:.2f}",
            f"{events[name]['front_cpu_s_per_event'] * 1000:.2f}",
        ]
        for name, text in names.items()
    ]
    speeds = [
        [text, f"{overhead['tokens_per_s'][name]:.1f}", lost]
        for name, text, lost in (
            ("async_llm", "`AsyncLLM`", ""),
            ("one_replica", "one replica", _loss(overhead)),
        )
    ]

    def spread(kind: str, name: str) -> str:
        values = [row[kind][name] for row in death["rows"]]
        return f"{min(values):.1f} to {max(values):.1f}"

    num_other = sum(row["other_tokens"] for row in death["rows"])
    said = (
        f"{death['streams']} streams on two replicas of tiny-sdar, one of which is killed "
        f"half-way: {spread('hit', 'wall_s')} s for all, without a death "
        f"{spread('calm', 'wall_s')} s; longest silence of one, its second run up to where it "
        f"stood, {spread('hit', 'longest_silence_s')} s, else "
        f"{spread('calm', 'longest_silence_s')} s; two replicas again after "
        f"{spread('hit', 'until_replaced_s')} s; streams with other tokens than without a death: "
        f"{num_other}."
    )
    return (
        "\n"
        + grid(["events of 16 requests", "events/s", "ms of the replica", "ms of the front"], costs)
        + "\n"
        + grid(["16 requests at once, one thread", "tokens/s", "lost: median and range"], speeds)
        + fill(said)
    )


TABLES: Final[Mapping[str, Mapping[str, tuple[str, Callable[[Result], str]]]]] = {
    "loading.md": {
        "load": ("load_memory", load_memory),
        "quantization": ("quantization", quantization),
        "quantization-fp8": ("quantization_fp8", quantization),
    },
    "batch.md": {"ray": ("ray", ray)},
    "serving.md": {
        "server": ("server", server),
        "server-load": ("server_load", server_load),
        "replicas": ("replicas", replicas),
    },
    "benchmarks.md": {
        "overhead": ("engine_overhead_50m", overhead_model),
        "batching": ("batching", batching),
        "batch-scaling": ("batch_scaling", batch_scaling),
        "peers": ("peers", peers),
        "growth": ("growth", growth),
        "scheduler": ("scheduler", scheduler),
    },
    "sampling.md": {"draws": ("sampling", sampling)},
    "tasks.md": {"harder-tasks": ("tasks", tasks)},
    "recommend.md": {"recommend": ("recommend", recommendations)},
}
"""Of each page, by marker: the result file and what is made of it."""


def tables_of(page: str, results: Path = RESULTS) -> dict[str, str]:
    """The tables of a page by marker; a result that is not there is named as not measured."""
    made = {}
    for marker, (name, table) in TABLES[page].items():
        path = results / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            made[marker] = table(result) + source(name, result)
        else:
            made[marker] = f"Not measured yet: `{command(name)}`.\n"
    return made


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
