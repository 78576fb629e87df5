"""The report of a study: what it computes, what it never shows alone, and a page by itself."""

from __future__ import annotations

import csv
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from starr_engine.cli.main import main
from starr_engine.errors import ConfigError
from starr_engine.study.grid.axes import Choice, TaskChoice
from starr_engine.study.grid.results import RESULTS, CellResult
from starr_engine.study.grid.significance import holm, mcnemar, ratio_interval
from starr_engine.study.report import tables
from starr_engine.study.report.analysis import (
    best_kept,
    budget_curves,
    forwards,
    scalings,
    split_speedups,
)
from starr_engine.study.report.page import note_command, parts_of, timing_notes, write_report
from starr_engine.study.report.settings import main_conditions, pool, without_begun_tasks
from tests.helpers.browser import CHROMIUM, browsing
from tests.helpers.made_results import made_cell, made_result, two_by_two

HOSTILE = '</style></svg><script>alert(1)</script> <!-- & "quotes" | pipe'


def only(results):
    [condition] = pool(results)
    return condition


def test_mcnemar_is_the_share_of_coin_flips_as_uneven_or_more():
    for gained, lost in itertools.product(range(7), repeat=2):
        count = gained + lost
        flips = list(itertools.product((0, 1), repeat=count))
        uneven = sum(abs(2 * sum(each) - count) >= abs(gained - lost) for each in flips)
        assert mcnemar(gained, lost) == pytest.approx(uneven / len(flips))
    assert 0.0 < mcnemar(0, 1000) < 1e-300


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_a_ratio_goes_by_problems():
    assert ratio_interval([4, 8, 12], [2, 4, 6]) == (2.0, 2.0)  # pairs: no spread at all
    low, high = ratio_interval([4, 8, 12, 40], [4, 4, 4, 4])
    assert low < 4.0 < high
    assert (low, high) == ratio_interval([4, 8, 12, 40], [4, 4, 4, 4])


def test_a_setting_is_pooled_over_tasks_and_seeds():
    cells = [made_cell(task=TaskChoice(name=name), seed=seed)
             for name in ("sorting", "code") for seed in (0, 1)]  # fmt: skip
    walls = (1.0, 2.0, 3.0, 2.0)
    results = [made_result(cell, cell, solved="1100", wall_s=wall)
               for cell, wall in zip(cells, walls, strict=True)]  # fmt: skip
    [setting] = only(results).settings
    assert (setting.num_problems, setting.accuracy, setting.nfe) == (16, 0.5, 8.0)
    assert (setting.tokens_per_s, setting.seconds_per_problem) == (160 / 8.0, 0.5)
    assert setting.latency_p95_s == 2.0
    assert setting.by_task == {"sorting": 0.5, "code": 0.5}


def test_other_seeds_of_a_file_make_no_interval_narrower():
    def interval(task: TaskChoice) -> tuple[float, float]:
        cells = [made_cell(task=task, seed=seed) for seed in range(5)]
        return only([made_result(each, each) for each in cells]).settings[0].accuracy_interval

    low, high = interval(TaskChoice(name="mine", file="mine.jsonl", scorer="exact"))
    narrow = interval(TaskChoice(name="sorting"))
    assert low < narrow[0] and narrow[1] < high


def test_a_setting_that_lacks_a_task_is_left_out_and_its_reason_is_told():
    code = TaskChoice(name="code")
    results = [
        *two_by_two(),
        *(
            replace(each, cell=replace(each.cell, task=code), baseline=made_cell(task=code).id)
            for each in two_by_two()[:-1]
        ),
        made_result(made_cell("dual", "starr", task=code), made_cell(task=code), error="no memory"),
    ]
    condition = only(results)
    assert [each.name for each in condition.settings] == [
        "none, low_confidence", "none, starr", "dual, low_confidence"
    ]  # fmt: skip
    assert tables.failed_table(results) == [
        {"model": "made", "cache": "dual", "cells": "1", "reason": "no memory"}
    ]


def test_a_speedup_is_the_product_of_its_shares():
    [shares] = split_speedups(only(two_by_two(both_s=1.0, cache_s=2.0, policy_s=1.0)))
    assert (shares.total, shares.cache, shares.remasking) == (4.0, 2.0, 4.0)
    assert shares.interaction == 0.5
    assert math.prod((shares.cache, shares.remasking, shares.interaction)) == shares.total


def test_a_setting_is_compared_with_the_baseline_in_pairs():
    compared = only(two_by_two()).settings[3].compared
    assert compared is not None
    assert (compared.gained, compared.lost, compared.p_value) == (0, 1, 1.0)
    assert (compared.fewer_forwards, compared.fewer_rows, compared.faster) == (3.2, 5.0, 4.0)


def test_the_fastest_that_keeps_accuracy_is_not_the_fastest():
    condition = only(two_by_two(both_s=0.5))
    kept = best_kept(condition)
    assert kept is not None and kept.name == "none, starr"


def test_areas_are_those_of_rectangles_on_a_logarithmic_axis():
    condition = only(two_by_two())  # forwards: 8 and 2 and 2.5; accuracy 0.75 and 0.5
    curves = {each.name: each
              for each in budget_curves(condition, forwards, lambda each: each.name)}  # fmt: skip
    assert curves["none, starr"].area == pytest.approx(0.75)
    assert curves["none, low_confidence"].area == 0.0  # solves nothing below its own cost
    expected = 0.5 * math.log(8 / 2.5) / math.log(8 / 2)
    assert curves["dual, starr"].area == pytest.approx(expected)


def longer(results: list[CellResult], **changes) -> list[CellResult]:
    base = made_cell(**changes)
    return [replace(each, cell=replace(each.cell, **changes), baseline=base.id) for each in results]


def test_lengths_are_put_in_a_row_and_other_conditions_are_not():
    results = [
        *longer(two_by_two(), max_tokens=128), *longer(two_by_two(), max_tokens=64),
        *longer(two_by_two(), max_tokens=64, batch_size=1),
    ]  # fmt: skip
    conditions = pool(results)
    [found] = scalings(conditions)
    assert [length for length, _ in found.points] == [64.0, 128.0]
    assert len(found.names) == 4
    assert len(main_conditions(conditions)) == 1


def written(folder: Path, results: list[CellResult]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / RESULTS).write_bytes(b"".join(each.to_line() for each in results))
    return write_report(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, list[CellResult]]:
    """A report in which every text that comes from outside means harm."""
    results = longer(two_by_two(), model=HOSTILE, task=TaskChoice(name=HOSTILE))
    cell = made_cell("dual", "starr", model=HOSTILE, task=TaskChoice(name=HOSTILE), max_tokens=64)
    other = [
        *longer(results, model=HOSTILE, task=TaskChoice(name=HOSTILE), max_tokens=64),
        made_result(
            replace(cell, remasking=Choice(name="own", args={"text": HOSTILE})), cell, error=HOSTILE
        ),
    ]
    folder = tmp_path_factory.mktemp("report") / "out"
    folder.mkdir()
    note_command(folder, f"starr-engine study {HOSTILE}")
    note_command(folder, f"starr-engine study {HOSTILE}")
    written(folder, [*results, *other])
    return folder, results


def test_a_page_needs_nothing_else_and_texts_stay_texts(hostile):
    page = (hostile[0] / "report.html").read_text()
    assert "<script" not in page
    assert page.count("</style>") == 1 + len(re.findall(r"<style type=", page))
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(each.startswith(("#", "data:")) for each in links)
    assert page.count("<svg") == page.count("</svg>") >= 4
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert page.count("starr-engine study --report-only") >= 4  # each figure names its command


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_the_page_as_it_is_meant(hostile, tmp_path):
    with browsing(f"file://{hostile[0] / 'report.html'}", tmp_path / "profile") as page:
        assert page.problems == []
        assert page.run("document.querySelectorAll('figure svg').length") >= 4
        for width in (1180, 420):  # what is wider scrolls in its own box
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip
            assert page.run("document.documentElement.scrollWidth") <= width
        assert page.problems == []


def test_no_table_shows_tokens_per_second_alone(hostile):
    folder, _ = hostile
    lines = (folder / "report.md").read_text().splitlines()
    heads_in_markdown = [line.strip("| ").split(" | ") for line, below in itertools.pairwise(lines)
                         if below.startswith("| ---")]  # fmt: skip
    heads_in_csv = next(csv.reader((folder / "report.csv").read_text().splitlines()))
    shown = [each for each in (heads_in_csv, *heads_in_markdown) if "tokens/s" in each]
    assert len(shown) >= 3
    for heads in shown:
        listed = " ".join(heads)
        assert "accuracy" in listed and "NFE" in listed and "batch" in listed
    page = (folder / "report.html").read_text()
    for heads in re.findall(r"<thead>(.*?)</thead>", page):
        if "tokens/s" in heads:
            assert "accuracy" in heads and "NFE" in heads and "batch" in heads


def test_a_report_is_the_same_twice(hostile, tmp_path):
    folder, _ = hostile
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    write_report(folder)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before


def test_cells_have_a_row_each_with_numbers_that_read_back_exactly(hostile):
    folder, results = hostile
    rows = list(csv.DictReader((folder / "cells.csv").read_text().splitlines()))
    assert [each["id"] for each in rows[:4]] == [each.cell.id for each in results]
    assert float(rows[3]["accuracy"]) == 0.5 and float(rows[3]["nfe"]) == 2.5
    assert rows[-1]["accuracy"] == "" and rows[-1]["error"] == HOSTILE
    assert all(each["command"].startswith("starr-engine study --model") for each in rows)


def test_a_study_of_one_cell_or_without_its_baseline_has_a_report_too(tmp_path):
    one = written(tmp_path / "one", two_by_two()[:1]).read_text()
    assert "No setting within 1% of its accuracy is faster" in one
    failed = [made_result(made_cell(), error="no memory"), *two_by_two()[1:]]
    without = written(tmp_path / "without", failed).read_text()
    assert "The baseline has no numbers" in without
    nothing = written(tmp_path / "nothing", failed[:1]).read_text()
    assert "no memory" in nothing and "<svg" not in nothing


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert main(["study", "--report-only", "--output", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_a_report_of_a_running_study_shows_what_is_there(tmp_path):
    lines = [each.to_line() for each in two_by_two()]
    (tmp_path / f"{RESULTS}.partial").write_bytes(b"".join(lines[:3]) + lines[3][:50])
    with pytest.raises(ConfigError, match="no results"):
        write_report(tmp_path / "elsewhere")
    text = write_report(tmp_path).read_text()
    assert "3 of 3" in text
    assert len(parts_of(pool(two_by_two()))) == 1


def test_a_task_that_was_begun_hides_no_setting_of_the_finished_ones():
    done = two_by_two()
    begun = made_result(made_cell(task=TaskChoice(name="chains")))
    [condition] = pool(without_begun_tasks([*done, begun]))
    assert (len(condition.settings), condition.tasks) == (4, ("sorting",))
    [condition] = pool([*done, begun])
    assert len(condition.settings) == 1


def side_by_side(result, count):
    timing = replace(result.measured.timing, side_by_side=count)
    return replace(result, measured=replace(result.measured, timing=timing))


def test_times_that_were_measured_side_by_side_say_so_wherever_they_are(tmp_path):
    alone = two_by_two()
    assert timing_notes(alone) == []
    both = [side_by_side(each, 2) for each in alone]
    (tmp_path / RESULTS).write_bytes(b"".join(each.to_line() for each in both))
    page = write_report(tmp_path).read_text()
    report = (tmp_path / "report.md").read_text()
    for text in (page, report):
        assert "Measured by 2 workers side by side: seconds" in text
        assert re.search(r"tokens/s at batch 4, 2 workers side by side", text)
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert [row["workers"] for row in rows] == ["2"] * 4
    [note] = timing_notes([*alone[:2], *both[2:]])
    assert "measured by 1 or 2 workers at once" in note and "not to be compared" in note
