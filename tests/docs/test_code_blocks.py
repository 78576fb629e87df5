"""Every code block of the README and of docs/ runs, or says why it does not and is at least valid.

``python -m pytest tests/docs/test_code_blocks.py -k caches`` runs those of one page.
"""

from __future__ import annotations

import ast
import importlib
import json
import shlex
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from starr_engine.cli.main import make_parser
from starr_engine.study.grid.read import read_grids
from tests.helpers.code_blocks import SHELL, CodeBlock, blocks_of
from tests.helpers.page_runner import ROOT, PageRunner

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_blocks_of_the_page_run(page: str, tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / page, ROOT)
    for block in blocks:
        if not block.is_run:
            check_unrun(block, tmp_path)
    if not any(block.is_run for block in blocks):
        return
    folder = tmp_path / "page"
    folder.mkdir()
    with PageRunner(folder) as runner:
        for block in blocks:
            if block.is_run:
                runner.run(block)


def test_what_does_not_run_is_counted() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page, ROOT)]
    reasons = Counter(block.not_run for block in blocks if block.not_run)
    print(f"{sum(block.is_run for block in blocks)} blocks run, {reasons.total()} do not:")
    for reason, count in reasons.most_common():
        print(f"  {count} {reason}")
    assert sum(block.is_run for block in blocks) > reasons.total()


def check_unrun(block: CodeBlock, folder: Path) -> None:
    """Refuse text that cannot be what its language says."""
    try:
        match block.language:
            case "python":
                check_python(block.text)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                check_yaml(block.text, folder)
            case language if language in SHELL:
                check_commands(block.text)
    except (Exception, SystemExit) as error:
        raise block.refused(f"{type(error).__name__}: {error}") from error


def check_python(text: str) -> None:
    """Its syntax, and whether what it imports from this package is there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("starr_engine"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                getattr(module, name.name)


def check_yaml(text: str, folder: Path) -> None:
    """Its syntax; and a study must be one."""
    content: Any = yaml.safe_load(text)
    if isinstance(content, dict) and {"models", "tasks"} & content.keys():
        file = folder / "grid.yaml"
        file.write_text(text)
        assert read_grids(file)


def check_commands(text: str) -> None:
    """Whether this package's commands among them have these flags."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["starr-engine"]:
            make_parser(words[1]).parse_args(words[1:])
