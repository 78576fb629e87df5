"""Imports inside the package point down one fixed table, and importing it needs torch alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "starr_engine"

# An import may only go to a lower level, or stay inside its own unit (the module or folder below
# starr_engine). Where SIDEWAYS says so, units of one level see each other too.
LEVELS = (
    {"params", "config", "outputs", "errors", "registry", "request", "tokenization", "trace"}
    | {"tokenizer_files"}
    | {
        "sampling_checks",
        "unsupported",
        "samples",
        "infilling",
        "starr_types",
        "ops_fakes",
        "splitmix",
    }
    | {"memory_size", "prompts", "environment"},
    {"ops", "ops_reference", "_core"},
    {"layers"},
    {"cache", "decoding", "attention", "models"},
    {"engine"},
    {"llm", "async_llm"},
    {"bench", "offline", "serve", "testing", "make_checkpoint"},
    {"distributed"},
    {"study"},
    {"cli"},
    {"__main__"},
)
SIDEWAYS = {0}
# Parts that see nothing of the package but themselves: they also run where it is not installed.
ISLANDS = ("starr_engine.study.tasks",)


def level_of(unit: str) -> int | None:
    return next((level for level, units in enumerate(LEVELS) if unit in units), None)


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, package: Path) -> Iterator[str]:
    """Every dotted name under the package that a file imports, wherever in the file it does."""
    base = module_name(path, package).split(".")
    if path.name != "__init__.py":
        base.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            # `from starr_engine import ops` may mean the module starr_engine.ops.
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (
            name
            for name in names
            if name.split(".")[0] == package.name and not name.endswith(".__version__")
        )


def problem_with(importer: str, imported: str) -> str | None:
    """Why one import is against the table, or None."""
    for island in ISLANDS:
        if f"{importer}.".startswith(f"{island}.") and not f"{imported}.".startswith(f"{island}."):
            return f"{importer} imports {imported}, but {island} stands alone"
    unit, target = importer.split(".")[1], imported.split(".")[1]
    level, target_level = level_of(unit), level_of(target)
    if level is None:
        return f"{importer}: {unit!r} has no place in the table of this test"
    if unit == target:
        return None
    if target_level is None:
        return f"{importer} imports {imported}, which has no place in the table of this test"
    if target_level > level:
        return f"{importer} (level {level}) imports {imported} (level {target_level}) above it"
    if target_level == level and level not in SIDEWAYS:
        return f"{importer} imports {imported} beside it (level {level})"
    return None


def problems_in(package: Path) -> list[str]:
    problems = []
    for path in sorted(package.rglob("*.py")):
        importer = module_name(path, package)
        if importer == package.name:
            continue  # the package itself is above all levels: it only forwards names
        if level_of(importer.split(".")[1]) is None:
            problems.append(f"{importer} has no place in the table of this test")
        for imported in imported_modules(path, package):
            if (
                imported.count(".") >= 1
                and (problem := problem_with(importer, imported)) is not None
            ):
                problems.append(problem)
    return problems


def test_every_import_points_down() -> None:
    assert problems_in(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("cache/pool.py", "from starr_engine.engine import batching", "above it"),
        ("cache/pool.py", "def f():\n    import starr_engine.llm", "above it"),
        ("cache/pool.py", "from ..engine.step_batch import StepBatch", "above it"),
        ("cache/pool.py", "from starr_engine.decoding.base import State", "beside it"),
        ("params.py", "from starr_engine import ops", "above it"),
        ("utils.py", "import os", "no place"),
        ("cache/pool.py", "from starr_engine.utils import helper", "no place"),
        ("study/tasks/code.py", "from starr_engine.errors import StarrError", "stands alone"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, source: str, expected: str) -> None:
    path = tmp_path / "starr_engine" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (problem,) = problems_in(tmp_path / "starr_engine")
    assert expected in problem


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cache/policies/dual.py", "from starr_engine.cache.base import StepPlan"),
        ("cache/pool.py", "from starr_engine import ops"),
        ("params.py", "from starr_engine.errors import RequestError"),
        ("engine/engine.py", "from . import batching"),
        ("study/tasks/code.py", "from starr_engine.study.tasks.base import Task"),
        ("cli/main.py", "import starr_engine.llm, os"),
    ],
)
def test_a_right_import_is_left_alone(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / "starr_engine" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert problems_in(tmp_path / "starr_engine") == []


# Runs in a fresh interpreter. Only the package, torch and what torch itself may import are let
# through; anything else fails as if it were not installed.
_IMPORT_WITH_TORCH_ALONE = """
import sys

ALLOWED = {"starr_engine", "torch", "typing_extensions", "filelock", "fsspec", "jinja2",
           "markupsafe", "mpmath", "networkx", "sympy", "setuptools", "torchgen", "functorch"}

import torch  # before the hook: what torch imports of its own accord is not ours to judge

before = set(sys.modules)

class Block:
    @staticmethod
    def find_spec(name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in ALLOWED and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
        return None

sys.meta_path.insert(0, Block)

import starr_engine

after_import = {name.partition(".")[0] for name in set(sys.modules) - before}
starr_engine.SamplingParams(max_tokens=32, block_length=32)
starr_engine.EngineConfig
new = {name.partition(".")[0] for name in set(sys.modules) - before}
third_party = sorted(name for name in new if name not in sys.stdlib_module_names)
print(third_party)
"""


def test_the_package_imports_with_torch_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITH_TORCH_ALONE],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['starr_engine']"


def test_importing_the_package_loads_neither_torch_nor_anything_heavy() -> None:
    code = (
        "import sys, starr_engine; starr_engine.SamplingParams;"
        "heavy = ('torch', 'numpy', 'transformers', 'tokenizers', 'pyarrow', 'safetensors');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout.strip() == "[]"
