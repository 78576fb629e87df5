"""The tables of measured results are those of the committed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.result_tables import DOCS, TABLES, tables_of
from tools.update_docs import fill


@pytest.mark.parametrize("page", TABLES)
def test_a_page_has_the_tables_of_the_result_files(page: str) -> None:
    text = (DOCS / page).read_text()
    assert fill(text, tables_of(page)) == text


def test_what_was_not_measured_is_named_with_its_command(tmp_path: Path) -> None:
    for marker, text in tables_of("benchmarks.md", tmp_path).items():
        assert text.startswith("Not measured yet: `python -m benchmarks."), marker
