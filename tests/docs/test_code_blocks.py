"""Every code block of the README and of docs/ runs, or says why it does not and is at least valid.

``python -m pytest tests/docs/test_code_blocks.py -k caches`` runs those of one page.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.code_blocks import blocks_of
from tests.helpers.page_runner import ROOT, PageRunner
from tests.helpers.unrun_blocks import check_unrun

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_blocks_of_the_page_run(page: str, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    with PageRunner(folder) as runner:
        for block in blocks_of(ROOT / page, ROOT):
            if block.is_run:
                runner.run(block)
            else:
                check_unrun(block, folder)


def test_what_does_not_run_is_counted() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page, ROOT)]
    reasons = Counter(block.not_run for block in blocks if block.not_run)
    print(f"{sum(block.is_run for block in blocks)} blocks run, {reasons.total()} do not:")
    for reason, count in reasons.most_common():
        print(f"  {count} {reason}")
    assert sum(block.is_run for block in blocks) > reasons.total()
