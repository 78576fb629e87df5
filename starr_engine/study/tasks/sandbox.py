"""Runs functions that a model wrote, in restricted child processes.

Three fences, each of which would do alone for the programs of the ``code`` task:

1. a whitelist of syntax and names, checked on the parsed program before anything runs:
   no imports, no attributes but ``append``, no dunder names, a few harmless builtins;
2. a child interpreter (``python -I -S``, empty environment, empty working directory) under
   limits of memory, file size, open files and processes;
3. in the child, one fork per function with a CPU limit and an alarm of its own, so that one
   endless loop costs its own second and none of the others.

Nothing that came from a model is ever executed in the calling process.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TIME_LIMIT_S: Final = 1
"""Seconds of CPU, and of the clock (twice that), for all inputs of one function."""
MEMORY_LIMIT_BYTES: Final = 256 * 2**20
MAX_SOURCE_CHARS: Final = 4000
_JOBS_PER_CHILD: Final = 128

_BUILTINS: Final = (
    "abs", "all", "any", "bool", "enumerate", "float", "int", "len", "list", "max", "min", "range",
    "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
)  # fmt: skip
_METHODS: Final = frozenset({"append"})
_NODES: Final = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign,
    ast.For, ast.While, ast.If, ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.Name, ast.Load,
    ast.Store, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call,
    ast.Attribute, ast.List, ast.Tuple, ast.Subscript, ast.Slice, ast.ListComp, ast.GeneratorExp,
    ast.comprehension, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One candidate function and what to call it with."""

    source: str
    function: str
    inputs: Sequence[Sequence[Any]]
    """Argument lists; JSON values."""


def refusal(source: str, function: str) -> str | None:
    """Return why a program may not run, or None when it may.

    Args:
        source: The program; must be one function definition and nothing else.
        function: The name it must have.
    """
    if len(source) > MAX_SOURCE_CHARS:
        return f"longer than {MAX_SOURCE_CHARS} characters"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not valid Python"
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return "not a single function"
    if tree.body[0].name != function:
        return f"the function is not called {function}"
    if tree.body[0].decorator_list:
        return "has a decorator"
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return f"uses {type(node).__name__}"
        if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
            return f"uses the attribute {node.attr}"
        if isinstance(node, ast.Name) and "__" in node.id:
            return f"uses the name {node.id}"
    return None


def run_jobs(jobs: Sequence[Job]) -> list[list[Any] | None]:
    """Run each function on its inputs.

    Returns:
        Per job the list of results (JSON values), or None where the program was refused,
        failed, ran out of time or memory, or returned something that is no JSON value.
    """
    results: list[list[Any] | None] = [None] * len(jobs)
    allowed = [i for i, job in enumerate(jobs) if refusal(job.source, job.function) is None]
    for start in range(0, len(allowed), _JOBS_PER_CHILD):
        indices = allowed[start : start + _JOBS_PER_CHILD]
        for index, result in zip(indices, _run_child([jobs[i] for i in indices]), strict=True):
            results[index] = result
    return results


def _run_child(jobs: Sequence[Job]) -> list[list[Any] | None]:
    """Run jobs in one restricted interpreter; what is missing in its output is None."""
    request = {
        "jobs": [[job.source, job.function, list(job.inputs)] for job in jobs],
        "names": _BUILTINS,
        "time_limit_s": TIME_LIMIT_S,
        "memory_limit_bytes": MEMORY_LIMIT_BYTES,
    }
    runner = Path(__file__).with_name("sandbox_child.py")
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(runner)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                env={},
                cwd=folder,
                timeout=10 + 3 * TIME_LIMIT_S * len(jobs),
                check=False,
            )
            output = done.stdout
        except subprocess.TimeoutExpired as expired:
            partial = expired.stdout or b""
            output = partial.decode() if isinstance(partial, bytes) else partial
    results: list[list[Any] | None] = [None] * len(jobs)
    for line in output.splitlines():
        try:
            index, values = json.loads(line)
        except ValueError:  # a line cut off by a kill
            continue
        results[index] = values
    return results
