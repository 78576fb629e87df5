"""Whether a block that is not run is at least what its language says."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml

from starr_engine.cli.main import make_parser
from starr_engine.study.grid.read import read_grids
from tests.helpers.code_blocks import SHELL, CodeBlock


def check_unrun(block: CodeBlock, folder: Path) -> None:
    """Refuse text that cannot be what its language says.

    Raises:
        AssertionError: Naming the block and the problem.
    """
    try:
        match block.language:
            case "python":
                _check_python(block.text)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                _check_yaml(block.text, folder)
            case language if language in SHELL:
                _check_commands(block.text)
            case "console":
                _check_commands(
                    "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)", block.text, re.MULTILINE))
                )
    except (Exception, SystemExit) as error:
        raise block.refused(f"{type(error).__name__}: {error}") from error


def _check_python(text: str) -> None:
    """Its syntax, and whether what it imports from this package is there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("starr_engine"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                getattr(module, name.name)


def _check_yaml(text: str, folder: Path) -> None:
    """Its syntax; and a study must be one."""
    content: Any = yaml.safe_load(text)
    if isinstance(content, dict) and {"models", "tasks"} & content.keys():
        file = folder / "grid.yaml"
        file.write_text(text)
        assert read_grids(file)


def _check_commands(text: str) -> None:
    """Whether this package's commands among them have these flags."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["starr-engine"]:
            make_parser(words[1]).parse_args(words[1:])
