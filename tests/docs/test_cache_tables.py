"""The tables and the picture of docs/caches.md are those of the results and of the plans."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import bench_caches, bench_page_pool, cache_study
from tools.cache_tables import TABLES
from tools.draw_cache_rows import OUTPUT, PANELS, draw
from tools.update_docs import CACHES, render_caches

SMALL: dict[str, tuple[Callable[[], None], list[str]]] = {
    "caches": (
        bench_caches.main,
        ["--prompts", "32", "--batches", "1", "2", "--max-tokens", "64", "--width", "64",
         "--layers", "1", "--vocab", "300", "--whole-at", "32x1", "--max-rows", "4000"],
    ),
    "page_pool": (
        bench_page_pool.main,
        ["--repeats", "2", "--work", "320", "--requests", "3", "--steps", "3"],
    ),
    "cache_study": (
        cache_study.main,
        ["--models", "tiny-llada", "--num-problems", "1", "--num-problems-slow", "1",
         "--sets", "sorting"],
    ),
}  # fmt: skip


def empty() -> str:
    return "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in TABLES)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the benchmarks write, at sizes of a second."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        for name, (main, argv) in SMALL.items():
            patch.setattr(sys, "argv", [name, *argv, "--output", str(folder / f"{name}.json")])
            main()
    return folder


def load(results: Path, name: str) -> dict:
    return json.loads((results / f"{name}.json").read_text())


def test_the_tables_are_those_of_the_result_files() -> None:
    text = CACHES.read_text()
    assert render_caches(text) == text


def test_the_picture_is_that_of_the_plans() -> None:
    assert OUTPUT.read_text() == draw()
    for entry in PANELS:
        assert f">{entry.title}</text>" in draw()


def test_a_result_that_is_not_there_is_named(tmp_path: Path) -> None:
    shown = render_caches(empty(), tmp_path)
    assert "Not measured yet: `python -m benchmarks.bench_caches`." in shown
    with pytest.raises(ValueError, match="no place for cache-study"):
        render_caches("nothing", tmp_path)


def test_every_size_is_compared_with_no_cache_of_its_own_model(results: Path) -> None:
    result = load(results, "caches")
    rows = {(row["model"], row["cache"], row["batch"]): row for row in result["rows"]}
    none, dual = (rows["bidirectional", cache, 1] for cache in ("none", "dual"))
    assert (none["rows_per_request"], dual["rows_per_request"]) == (96 * 64, 2 * (96 + 31 * 32))
    assert dual["rows_ratio"] == pytest.approx(6144 / 2176)
    assert none["rows_ratio"] == none["time_ratio"] == 1.0
    assert (none["timed"]["steps"], dual["timed"]["steps"]) == (64, 64)
    assert none["timed"]["is_whole"]
    assert dual["timed"]["rows"] == 2176
    exact = rows["block_causal", "block_causal", 1]
    assert exact["rows_per_request"] == 2 * (64 + 31 * 32)
    assert exact["timed"]["cache_label"] == "exact"
    assert exact["timed"]["rows"] == 64 + 31 * 32
    assert rows["bidirectional", "prefix", 2]["timed"] is None, "more rows than allowed"
    assert min(result["setting"]["num_parameters"].values()) > 0


def test_the_study_compares_every_cache_under_every_remasking_policy(results: Path) -> None:
    result = load(results, "cache_study")
    names = list(cache_study.BIDIRECTIONAL)
    assert [row["name"] for row in result["rows"]] == names * len(cache_study.REMASKING)
    for row in result["rows"]:
        each = row["overall"]
        assert each["accuracy_interval"][0] <= each["accuracy"] <= each["accuracy_interval"][1]
        assert each["rows"] == pytest.approx(each["rows_per_forward"] * each["nfe"])
        if row["cache"] == "none" and not row["cache_args"]:
            assert each["agreement"] == each["rows_ratio"] == each["speedup"] == 1.0
            assert row["label"] == "exact"
        elif row["name"] == "dual":
            assert each["rows_ratio"] > 1
            assert row["label"] == "approximate: temporal reuse"


def test_the_pool_is_compared_on_equal_work(results: Path) -> None:
    result = load(results, "page_pool")
    assert len(result["managers"]) == 2
    for managers in result["managers"]:
        assert managers["same_pages"]
        work = managers["workload"]
        assert 0 <= work["fewest_free_pages"] < work["num_pages"] // 10
        assert work["evictions"] > 0 < work["pages_found"]
        for row in managers["rows"].values():
            assert row["ratio"] == pytest.approx(row["python_us"] / row["cpp_us"])
    assert [row["cache"] for row in result["steps"]] == ["dual", "block_causal"]


def test_every_row_of_the_results_is_in_the_tables(results: Path) -> None:
    shown = render_caches(empty(), results)
    assert "Not measured yet" not in shown
    for row in load(results, "caches")["rows"]:
        assert f"| `{row['cache']}` | {row['rows_per_request']:,} |" in shown
    for row in load(results, "cache_study")["rows"]:
        assert f"| {row['name']} | {row['label']} | {row['overall']['accuracy']:.1%} [" in shown
    for managers in load(results, "page_pool")["managers"]:
        for row in managers["rows"].values():
            cells = f"| {row['cpp_us']:.2f} | {row['python_us']:.1f} | {row['ratio']:.1f}x |"
            assert cells in shown
