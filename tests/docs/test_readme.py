"""What the README says is true: its example runs, its numbers are those of the result files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_tables_are_those_of_the_result_files() -> None:
    subprocess.run([sys.executable, "-m", "tools.update_readme", "--check"], cwd=ROOT, check=True)


def test_the_lines_of_a_step_are_those_of_the_engine() -> None:
    source = (ROOT / "starr_engine" / "engine" / "engine.py").read_text()
    lines = re.findall(r"```python\n(schedule = .*?)```", README, re.DOTALL)[0].splitlines()
    assert len(lines) == 8
    for line in lines:
        assert line in source


def test_every_file_and_folder_that_is_linked_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links {target}"
