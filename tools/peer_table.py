"""The table of the comparison with peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.markdown import fill, grid, share

Result = Mapping[str, Any]


def peers(result: Result) -> str:
    """Each model's systems, with what they do otherwise than the engine's row beside them."""
    return "".join(_peers_of(model) for model in result["models"])


def _peers_of(model: Mapping[str, Any]) -> str:
    setting = model["setting"]
    beside = {pair["system"]: pair for pair in model["pairs"]}
    notes = list(dict.fromkeys(row["differs"] for row in model["rows"] if row["differs"]))
    rows = []
    for row in model["rows"]:
        number = f" ({notes.index(row['differs']) + 1})" if row["differs"] else ""
        name = "engine" if row["side"] == "engine" else row["name"].rsplit(", batch", 1)[0]
        pair = beside.get(row["name"])
        speed, latency, ratio = "withheld", "", ""
        if not row["withheld"]:
            each = row["tokens_per_s"]
            speed = f"{each['median']:.1f} ({each['q1']:.1f}-{each['q3']:.1f})"
            latency = f"{row['latency_s']['median_s']:.3f}"
        if pair and pair["differing"]:
            speed = f"withheld: {len(pair['differing'])} of {pair['rows']} outputs differ"
        elif pair and pair["speed_ratio"] is not None and row["side"] != "engine":
            ratio = f"{pair['speed_ratio']:.2f}x"
        accuracy = "" if row["accuracy"] is None else share(row)
        rows.append(
            [
                name + number, row["procedure"], str(row["batch"]), accuracy,
                f"{row['nfe']:.1f}", f"{row['forwards']:,}", f"{row['computed_rows']:,}",
                speed, latency, ratio,
            ]
        )  # fmt: skip
    low, high = setting["prompt_tokens"]
    stop = "with early stop at EOS" if setting["early_stop"] else "without early stop"
    what = (
        f"`{model['model']}`, {model['num_parameters'] / 1e6:.1f} M parameters, "
        f"{setting['prompts']} prompts of {low} to {high} tokens, up to "
        f"{max(setting['max_tokens'])} new ones {stop}, median and quartiles of "
        f"{setting['repeats']} runs in turns:"
    )
    header = [
        "system", "cache, remasking", "batch", "accuracy", "NFE", "forwards", "rows", "tokens/s",
        "s per prompt", "engine over it",
    ]  # fmt: skip
    listed = "".join(f"{number}. {note}\n" for number, note in enumerate(notes, start=1))
    return fill(what) + "\n" + grid(header, rows) + (f"\n{listed}" if listed else "")
