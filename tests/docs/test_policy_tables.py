"""The tables of docs/policies.md are those of the committed study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.update_docs import DOCUMENT, RESULT, TABLES, render


def result() -> dict:
    return json.loads(RESULT.read_text())


def test_the_tables_are_those_of_the_result_file():
    text = DOCUMENT.read_text()
    assert render(text, result()) == text


def test_every_setting_of_the_tables_is_shown_with_its_numbers():
    shown = render(
        "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->" for name in TABLES), result()
    )
    for row in result()["rows"]:
        if row["kind"] != "curve":
            assert f"| {row['name']} | {row['overall']['accuracy']:.1%} [" in shown
    assert shown.count("| at equal agreement |") == 1


def test_a_document_without_a_marker_is_refused():
    with pytest.raises(ValueError, match="no place for policy-study"):
        render("nothing", result())


def test_the_picture_is_drawn_and_the_same_twice(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs the extra 'study'")
    from tools.plot_policy_study import draw

    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(result(), first)
    draw(result(), second)
    assert first.read_bytes() == second.read_bytes()
    assert "<svg" in first.read_text()
