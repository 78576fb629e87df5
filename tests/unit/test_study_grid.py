"""The grid of a study: its cells, their ids, how it is read, and what is asked."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from starr_engine.errors import ConfigError
from starr_engine.study.grid.axes import Cell, Choice, Grid, TaskChoice
from starr_engine.study.grid.questions import ask, is_right
from starr_engine.study.grid.read import make_grid, parse_choice, read_grids
from starr_engine.study.problem_sets import PROBLEM_SETS
from tests.helpers.fake_bench import FakeTokenizer, write_questions

ROOT = Path(__file__).parents[2]
CELL = Cell(
    model="tiny-llada", task=TaskChoice(name="sorting"), cache=Choice(name="none"),
    remasking=Choice(name="threshold", args={"threshold": 0.9}), block_length=None, max_tokens=None,
    batch_size=16, seed=0, shots=0, num_problems=100, engine={}, sampling={},
)  # fmt: skip
OTHER_VALUES = {
    "model": "tiny-sdar", "task": TaskChoice(name="code"), "cache": Choice(name="dual"),
    "remasking": Choice(name="threshold", args={"threshold": 0.8}), "block_length": 16,
    "max_tokens": 32, "batch_size": 1, "seed": 1, "shots": 2, "num_problems": 10,
    "engine": {"dtype": "bfloat16"}, "sampling": {"temperature": 1.0},
}  # fmt: skip


def test_an_id_never_changes_so_that_old_results_are_found_again():
    assert CELL.id == "1ca504a3c257"
    assert Cell.from_plain(CELL.to_plain()) == CELL


@pytest.mark.parametrize("name", [each.name for each in fields(Cell)])
def test_every_setting_is_part_of_the_id(name):
    other = replace(CELL, **{name: OTHER_VALUES[name]})
    assert other.id != CELL.id
    assert Cell.from_plain(other.to_plain()).id == other.id


def test_all_combinations_are_cells_and_each_groups_baseline_comes_first():
    grid = make_grid(
        {"tasks": ["sorting", "code"], "caches": ["none", "dual", "prefix"], "seeds": [0, 1],
         "remasking": ["low_confidence", {"threshold": {"threshold": [0.8, 0.9]}}]}
    )  # fmt: skip
    cells = list(grid.cells())
    assert len(cells) == len({each.id for each in cells}) == 2 * 2 * 3 * 3
    for at, cell in enumerate(cells):
        baseline = grid.baseline_of(cell)
        assert cells.index(baseline) <= at
        assert (baseline.cache.name, baseline.remasking.name) == ("none", "low_confidence")
        assert (baseline.task, baseline.seed) == (cell.task, cell.seed)


def test_a_grid_names_everything_that_is_wrong_at_once():
    with pytest.raises(ConfigError) as caught:
        Grid(
            models=(), tasks=(TaskChoice(name="sortin"),), caches=(Choice(name="dul"),) * 2,
            remasking=(Choice(name="threshold", args={"tau": 1}),), batch_sizes=(0,),
            engine={"max_num_requests": 3}, sampling={"temperature": -1.0},
        )  # fmt: skip
    message = str(caught.value)
    for part in ("models is empty", "did you mean 'sorting'", "did you mean 'dual'", "dul twice",
                 "has no argument 'tau'", "batch_sizes takes integers >= 1",
                 "max_num_requests is an axis", "temperature must be"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("- none", "must map names"),
        ("", "must map names"),
        ("caches: [", "cannot be read"),
        ("cashes: [none]", "did you mean 'caches'"),
        ("caches: [{dual: {}, none: {}}]", "one policy with arguments"),
        ("caches: [{dual: 4}]", "must map names to values"),
        ("tasks: [missing.jsonl]", "cannot be read"),
        ("tasks: [{file: mine.jsonl, scorer: exakt}]", "did you mean 'exact'"),
        ("tasks: [{path: mine.jsonl}]", "the name of a shipped set"),
        ("engine: [device]", "must map names to values"),
    ],
)
def test_a_file_that_is_no_grid_is_refused_with_its_name(tmp_path, content, part):
    write_questions(tmp_path / "mine.jsonl")
    path = tmp_path / "grid.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"grid\.yaml") as caught:
        read_grids(path)
    assert part in str(caught.value)


def test_a_file_may_hold_several_grids_and_flags_change_each(tmp_path):
    (tmp_path / "grid.yaml").write_text("caches: [none]\n---\ncaches: dual\nseeds: [1, 2]\n")
    first, second = read_grids(tmp_path / "grid.yaml", {"num_problems": 3})
    assert (str(first.caches[0]), str(second.caches[0])) == ("none", "dual")
    assert (first.num_problems, second.num_problems, second.seeds) == (3, 3, (1, 2))


@pytest.mark.parametrize("path", ["examples/study.yaml", "benchmarks/study.yaml"])
def test_the_grids_of_the_repository_are_grids(path):
    grids = read_grids(ROOT / path)
    assert all(list(grid.cells()) for grid in grids)
    if path.startswith("benchmarks"):
        names = {choice.name for choice in grids[0].remasking}
        assert len(grids[0].caches) >= 7 and len(names) >= 8
        assert {task.name for task in grids[0].tasks} == set(PROBLEM_SETS)


def test_arguments_of_a_calibration_are_taken_from_its_file(tmp_path):
    (tmp_path / "found.json").write_text(
        '{"format": "starr-engine policy", "version": 1, "policy": "threshold", '
        '"args": {"threshold": 0.77}}'
    )
    choice = parse_choice("threshold@found.json", tmp_path)
    assert choice == Choice(name="threshold", args={"threshold": 0.77})


def test_a_file_is_known_by_what_it_holds_and_not_by_where_it_lies(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    for folder in (one, other):
        folder.mkdir()
        write_questions(folder / "mine.jsonl")
    ids = [next(make_grid({"tasks": ["mine.jsonl"]}, each).cells()).id for each in (one, other)]
    assert ids[0] == ids[1]
    write_questions(other / "mine.jsonl", 11)
    assert next(make_grid({"tasks": ["mine.jsonl"]}, other).cells()).id != ids[0]


def test_two_files_of_one_name_are_told_apart_by_the_user(tmp_path):
    one, other = (tmp_path / name / "mine.jsonl" for name in ("a", "b"))
    for each in (one, other):
        each.parent.mkdir()
        write_questions(each)
    with pytest.raises(ConfigError, match="tasks has mine twice"):
        make_grid({"tasks": [str(one), str(other)]})
    grid = make_grid({"tasks": [str(one), {"file": str(other), "name": "yours"}]})
    assert [each.name for each in grid.tasks] == ["mine", "yours"]


def test_shots_make_prompts_longer_and_change_nothing_else():
    plain = ask(replace(CELL, num_problems=3), FakeTokenizer)
    longer = ask(replace(CELL, num_problems=3, shots=2), FakeTokenizer)
    for short, long in zip(plain.prompts, longer.prompts, strict=True):
        assert long[-len(short) :] == short and len(long) > len(short)
    assert len({long[: -len(short)] for short, long in zip(plain.prompts, longer.prompts,
                                                          strict=True)}) == 1  # fmt: skip


def test_a_seed_draws_other_rows_of_a_file_and_the_same_ones_again(tmp_path):
    task = make_grid({"tasks": [str(write_questions(tmp_path / "m.jsonl", 40))]}).tasks[0]
    cells = [replace(CELL, task=task, num_problems=8, seed=seed) for seed in (0, 1, 0)]
    first, second, again = (ask(each, FakeTokenizer).fingerprint for each in cells)
    assert first == again != second


@pytest.mark.parametrize(
    ("text", "references", "scorer", "expected"),
    [
        (" a  b\n", ["x", "a b"], "exact", True),
        ("a b c", ["a b"], "exact", False),
        ("so it is a  b.", ["a b"], "contains", True),
        ("12 and then 1,234.50 in all", ["1234.5"], "number", True),
        ("12 and then 13", ["12"], "number", False),
        ("none", ["12"], "number", False),
        ("-3", ["#### -3"], "number", True),
    ],
)
def test_scorers(text, references, scorer, expected):
    assert is_right(text, references, scorer) is expected


@pytest.mark.parametrize(
    ("row", "scorer", "part"),
    [
        ('{"prompt": "a"}', "exact", "has no reference"),
        ('{"prompt": "a", "reference": []}', "exact", "has no reference"),
        ('{"reference": "a"}', "exact", "cannot be asked"),
        ('{"prompt": "a", "reference": "b", "max_tokens": 3}', "exact", "says how it is decoded"),
        ('{"prompt": "a", "reference": "b"}', "task", "is no problem: it has no id, task, answer"),
        ("", "exact", "has no row"),
    ],
)
def test_a_row_that_cannot_be_asked_or_scored_is_named(tmp_path, row, scorer, part):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row}\n" if row else "")
    task = make_grid({"tasks": [{"file": str(path), "scorer": scorer}]}).tasks[0]
    with pytest.raises(ConfigError, match=r"rows\.jsonl") as caught:
        ask(replace(CELL, task=task), FakeTokenizer)
    assert part in str(caught.value)


def test_rows_of_a_shipped_task_are_scored_by_it(tmp_path):
    import json

    [problem] = PROBLEM_SETS["sorting"].problems("demo", 1, 0)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(problem.to_row()) + "\n")
    task = make_grid({"tasks": [{"file": str(path), "scorer": "task"}]}).tasks[0]
    score = ask(replace(CELL, task=task), FakeTokenizer).score
    assert (score([problem.reference]), score(["1, 2"])) == ([True], [False])


def test_rows_without_references_are_asked_and_judged_by_agreement(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text('{"prompt": "q1"}\n')
    task = {"file": str(path), "scorer": "agreement"}
    [cell, *_] = make_grid({"tasks": [task]}).cells()
    assert ask(cell, FakeTokenizer).score(["whatever"]) == [True]  # the baseline has the word
    with pytest.raises(ConfigError, match="the scorer agreement needs none"):
        ask(replace(cell, task=replace(cell.task, scorer="exact")), FakeTokenizer)
    with pytest.raises(ConfigError, match="above temperature 0 outputs are drawn"):
        make_grid({"tasks": [task], "sampling": {"temperature": 0.5}})
