"""The fenced blocks of a page, and what the comment in front of one says of it.

``<!-- not run: REASON -->``    it cannot run in a test; its syntax and names are checked
``<!-- run first: COMMANDS -->``    shell commands that give it what its reader has
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

SHELL: Final = ("sh", "bash")
DATA: Final = ("yaml", "json", "toml")
RUN: Final = (*SHELL, "console", "python")
NEVER_RUN: Final = ("cpp", "cuda", "diff", "html", "makefile")
LANGUAGES: Final = (*RUN, *DATA, *NEVER_RUN, "text")

_COMMENT: Final = re.compile(r"<!-- *(not run|run first)\b:?(.*?)-->", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock:
    """One fenced block."""

    page: str
    line: int
    """Of its first line of code, from 1."""

    language: str
    text: str
    not_run: str | None = None
    """The reason, of a block that is not run."""

    first: str = ""
    """Shell commands to run before it."""

    @property
    def where(self) -> str:
        """For messages: page and line."""
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether a test executes it."""
        return self.language in RUN and self.not_run is None

    def refused(self, why: str) -> AssertionError:
        """The failure of whatever is wrong with it."""
        return AssertionError(f"{self.where}: {why}\n{self.text}")


def blocks_of(path: Path, root: Path) -> list[CodeBlock]:
    """All blocks of a Markdown file, in order.

    Raises:
        AssertionError: If a block names no language that is known, or a comment no block or reason.
    """
    page = str(path.relative_to(root))
    return list(_blocks(page, MarkdownIt().parse(path.read_text())))


def _blocks(page: str, tokens: list[Token]) -> Iterator[CodeBlock]:
    said: dict[str, str] = {}
    for token in tokens:
        if token.type == "html_block" and (found := _COMMENT.findall(token.content)):
            said |= {kind: text.strip() for kind, text in found}
            if not all(said.values()):
                raise AssertionError(f"{page}: a comment without a reason: {token.content}")
        elif token.type == "fence":
            assert token.map is not None
            block = CodeBlock(
                page=page,
                line=token.map[0] + 2,
                language=token.info.partition(" ")[0],
                text=token.content,
                not_run=said.get("not run"),
                first=said.get("run first", ""),
            )
            said = {}
            if block.language not in LANGUAGES:
                raise block.refused(f"say which language it is, of {', '.join(LANGUAGES)}")
            if block.language in NEVER_RUN and block.not_run is None:
                raise block.refused("nothing compiles it; say why in <!-- not run: ... -->")
            yield block
        elif said and token.nesting >= 0:
            break
    if said:
        raise AssertionError(f"{page}: no block follows the comment {said}")
