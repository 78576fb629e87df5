"""The command lines that apply a setting."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

from starr_engine.params import ArgValue
from starr_engine.study.grid.axes import NO_SHARING, Cell, Choice, typed
from starr_engine.study.recommend.goal import Objective

PROGRAM: Final = "starr-engine"

_RENAMED: Final[Mapping[tuple[str, ArgValue], tuple[str, ArgValue]]] = {
    ("skip_special_tokens", False): ("keep_special_tokens", True),
}
"""Fields whose flag says the opposite."""


def commands_for(cell: Cell, objective: Objective) -> dict[str, list[str]]:
    """Words of ``generate``, ``batch`` and ``serve`` with the setting of a cell, by command.

    Args:
        cell: What was measured. That its requests shared nothing is the study's own affair.
        objective: Latency says nothing of the batch of a server or a job; throughput was
            measured with the cell's.
    """
    flags = ["--model", cell.model]
    for name, value in cell.engine.items():
        if (name, value) not in NO_SHARING.items():
            flags += [f"--no-{_dashed(name)}"] if value is False else _flag(name, value)
    flags += _number("--max-tokens", cell.max_tokens) + _number("--block-length", cell.block_length)
    for name, value in cell.sampling.items():
        flags += _flag(*_RENAMED.get((name, value), (name, value)))
    flags += [*_policy("cache", cell.cache), *_policy("remasking", cell.remasking)]
    many = [] if objective == "latency" else ["--batch-size", str(cell.batch_size)]
    return {
        "generate": [PROGRAM, "generate", "your prompt", *flags],
        "batch": [PROGRAM, "batch", "--input", "in.jsonl", "--output", "out.jsonl", *flags, *many],
        "serve": [PROGRAM, "serve", *flags, *many],
    }


def as_lines(words: list[str], width: int, indent: str = "    ") -> str:
    """A command over several lines, broken between flags, each line but the last with a backslash.

    Args:
        words: Of the command.
        width: Columns.
        indent: Of the lines behind the first.
    """
    pieces: list[str] = []
    for word in words:
        if word.startswith("--") or len(pieces) < 2:
            pieces.append(shlex.quote(word))
        else:
            pieces[-1] += f" {shlex.quote(word)}"
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + 3 > width:
            lines.append(indent + piece)
        else:
            lines[-1] += f" {piece}"
    return " \\\n".join(lines)


def _policy(kind: str, choice: Choice) -> list[str]:
    words = [f"--{kind}", choice.name]
    for name, value in choice.args.items():
        words += [f"--{kind}-arg", f"{name}={typed(value)}"]
    return words


def _flag(name: str, value: ArgValue) -> list[str]:
    """A field of ``EngineConfig`` or ``SamplingParams`` as the flag of its name."""
    if value is None or isinstance(value, bool):
        return [f"--{_dashed(name)}"] if value else []
    return [f"--{_dashed(name)}", str(value)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _number(flag: str, value: int | None) -> list[str]:
    return [] if value is None else [flag, str(value)]
