"""docs/attention.md lists the backends that there are, in the order of ``auto``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from starr_engine.attention import flash_attn, flashinfer, torch_varlen, xformers
from starr_engine.attention.select import AUTO_ORDER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "attention.md").read_text()


def test_the_table_has_every_backend_in_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == AUTO_ORDER


def test_the_packages_named_are_those_that_errors_name() -> None:
    for module in (flash_attn, flashinfer, xformers):
        wanted = module._PACKAGE.install.removeprefix("pip install ").strip("'")
        assert f"`{wanted}`" in PAGE
    assert torch_varlen._PACKAGE.install.removesuffix(" or newer") in PAGE


def test_the_times_are_those_of_the_result_file() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text())
    ways = ("sdpa", "sdpa, shuffled pages", "flex_attention")
    for step, times in result["seconds per layer"].items():
        cells = [f"{times[way]['median_s'] * 1e3:.2f}" if way in times else "-" for way in ways]
        assert f"| {step} | {' | '.join(cells)} |" in PAGE
    assert result["environment"]["commit"][:7] in PAGE
