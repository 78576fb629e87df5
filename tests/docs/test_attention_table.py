"""docs/attention.md lists the backends that there are, in the order of ``auto``."""

from __future__ import annotations

import re
from pathlib import Path

from starr_engine.attention import flash_attn, flashinfer, torch_varlen, xformers
from starr_engine.attention.select import AUTO_ORDER

PAGE = (Path(__file__).parents[2] / "docs" / "attention.md").read_text()


def test_the_table_has_every_backend_in_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == AUTO_ORDER


def test_the_packages_named_are_those_that_errors_name() -> None:
    for module in (flash_attn, flashinfer, xformers):
        wanted = module._PACKAGE.install.removeprefix("pip install ").strip("'")
        assert f"`{wanted}`" in PAGE
    assert torch_varlen._PACKAGE.install.removesuffix(" or newer") in PAGE
