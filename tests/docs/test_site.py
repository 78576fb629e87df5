"""The documentation becomes a site without a warning, and nothing of it comes from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import starr_engine

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in leaves(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(listed) == len(set(listed))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == set(listed)


def test_the_site_is_whole(tmp_path: Path) -> None:
    # One test: the build takes about five seconds, and each worker of a parallel run would build.
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    check_loads(tmp_path)
    check_reference(tmp_path)
    check_copies(tmp_path)


def check_loads(site: Path) -> None:
    """Pages load nothing from elsewhere."""
    source = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?([^"' >]+)""")
    for page in site.rglob("*.html"):
        loaded = source.findall(page.read_text())
        assert loaded
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page


def check_reference(site: Path) -> None:
    """What the package exports is there, and no role of a docstring is shown as it is typed."""
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in starr_engine.__all__:
        assert f'id="starr_engine.{name}"' in pages, f"name {name} on a page of docs/api"
    assert not re.search(r":(meth|class|func|attr):", pages)


def check_copies(site: Path) -> None:
    """Links to files outside the pages lead to copies."""
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(\.\./([^)#]+)\)", page.read_text()):
            shown = [site / "repository" / f"{target}{end}" for end in ("", ".txt")]
            [copy] = [path for path in shown if path.exists()]
            assert copy.read_bytes() == (ROOT / target).read_bytes()
            link = f'href="{copy.relative_to(site)}"'
            assert link in (site / page.with_suffix(".html").name).read_text()
