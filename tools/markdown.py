"""Pieces of Markdown that tables of results are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def share(row: Mapping[str, Any]) -> str:
    """An accuracy with its interval."""
    low, high = row["accuracy_interval"]
    return f"{row['accuracy']:.0%} ({low * 100:.0f}-{high * 100:.0f})".replace("%", " %")


def fill(text: str) -> str:
    """A paragraph in lines of at most 100 columns."""
    filled = textwrap.fill(text.strip(), 100, break_long_words=False, break_on_hyphens=False)
    return f"\n{filled}\n"
