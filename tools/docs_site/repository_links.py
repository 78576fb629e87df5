"""MkDocs hook: links from docs/ to other files of the repository work on the site, too.

On GitHub ``../benchmarks/results/x.json`` is that file. The site gets a copy of each file that is
linked so, in ``repository/``, and the link leads there; MkDocs then checks it as any other.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK: Final = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")
_SHOWN: Final = (".html", ".json", ".png", ".svg", ".txt")
"""Suffixes that browsers show; other files are shown as text."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files to the site."""
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for _, link in _LINK.findall(page.content_string):
            target = _leaving(page.src_uri, link)
            if target is not None and (root / target).is_file():
                address = _address(target)
                if files.get_file_from_path(address) is None:
                    files.append(
                        File.generated(config, address, content=(root / target).read_bytes())
                    )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links to the copies."""

    def lead(match: re.Match[str]) -> str:
        target = _leaving(page.file.src_uri, match[2])
        if target is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"{match[1]}{posixpath.relpath(_address(target), here or os.curdir)}"

    return _LINK.sub(lead, markdown)


def _leaving(page: str, link: str) -> str | None:
    """The path from the repository's root, of a link that leaves docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def _address(target: str) -> str:
    suffix = "" if target.endswith(_SHOWN) else ".txt"
    return f"repository/{target}{suffix}"
