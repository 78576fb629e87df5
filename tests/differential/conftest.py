"""A random checkpoint whose confidences span [0, 1], its reference, and an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from starr_engine import LLM
from tests.helpers.engines import Reference, assert_all_pages_free, make_llm, sharp_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    """Without remembered canvases, so that rows are counted as each policy computes them."""
    llm = make_llm(folder, canvas_cache=0)
    yield llm
    llm.engine.page_pool.check_invariants()
    assert_all_pages_free(llm.engine)
