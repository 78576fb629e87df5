"""Published benchmark files: read in every format, asked as papers ask, scored by the answer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.errors import ConfigError
from starr_engine.study.published import PUBLISHED, CodeLimits, published_tasks, read_problems
from starr_engine.study.published.math_answers import boxed, canonical, is_equal, last_number
from starr_engine.study.published.rows import read_rows
from starr_engine.study.tasks import Problem

TASKS = published_tasks()

GSM8K = [
    {"question": f"Mia has {n} hens and buys {n}. How many?",
     "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"}
    for n in (3, 600)
]  # fmt: skip
MATH = [
    {"problem": "What is $1/2+1/4$?", "level": "Level 1", "type": "Algebra",
     "solution": r"It is $\frac{2}{4}+\frac14=\boxed{\frac{3}{4}}$."},
]  # fmt: skip
HUMANEVAL = [
    {"task_id": "HumanEval/0",
     "prompt": "from typing import List\n\n\ndef twice(xs: List[int]):\n    'Double all.'\n",
     "canonical_solution": "    return [2 * x for x in xs]\n", "entry_point": "twice",
     "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"},
]  # fmt: skip
MBPP = [
    {"task_id": number, "text": "Write a function to add one.",
     "code": "def inc(x):\n    return x + 1",
     "test_list": ["assert inc(1) == 2", "assert inc(0) == 1", "assert inc(-1) == 0"],
     "test_setup_code": "", "challenge_test_list": []}
    for number in (1, 2, 3, 4, 11, 510, 511)
]  # fmt: skip
ROWS = {"gsm8k": GSM8K, "math": MATH, "humaneval": HUMANEVAL, "mbpp": MBPP}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str, suffix: str) -> None:
    task = TASKS[name]
    plain = read_problems(task, write(tmp_path / "plain.jsonl", ROWS[name]), shots=0)
    other = read_problems(task, write(tmp_path / f"other{suffix}", ROWS[name]), shots=0)
    assert other == plain
    assert len({problem.id for problem in plain}) == len(plain) > 0
    assert {problem.task for problem in plain} == {name}


def test_a_folder_of_single_problems_is_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        path = tmp_path / "test" / "algebra" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(MATH[0] | {"problem": f"number {number}"}))
    assert [row["problem"] for row in read_rows(tmp_path)] == ["number 2", "number 10"]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_published_solutions_are_right_and_others_wrong(tmp_path: Path, name: str) -> None:
    for problem in read_problems(TASKS[name], write(tmp_path / "a.jsonl", ROWS[name]), shots=0):
        assert TASKS[name].score(problem, problem.reference)
        for text in ("", "no idea", "Question:", "\\boxed{", "The answer is 7777.", "#### "):
            assert not TASKS[name].score(problem, text)


def test_gsm8k_is_asked_in_both_styles(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", GSM8K[1:])
    train = write(tmp_path / "train.jsonl", GSM8K)
    [problem] = read_problems(TASKS["gsm8k"], path, shots=1, examples=train)
    assert problem.prompt == (
        "Question: Mia has 3 hens and buys 3. How many?\nAnswer: 3+3=<<3+3=6>>6\n#### 6\n\n"
        "Question: Mia has 600 hens and buys 600. How many?\nAnswer:"
    )
    [problem] = read_problems(TASKS["gsm8k"], path, shots=0, style="chat")
    assert problem.prompt.endswith("How many?\nLet's think step by step\nAnswer:")


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("So it is 1200.", True),
        ("So it is $1,200.00", True),
        ("1300, no: 1200\n\nQuestion: Tom has 5", True),
        ("#### 1200\n\nQuestion: How many? 7", True),
        ("1200 in 2 steps", False),
        ("-1200", False),
        ("12 00", False),
    ],
)
def test_gsm8k_counts_the_last_number_before_another_question(text: str, is_right: bool) -> None:
    problem = Problem("1", "gsm8k", "", "", "1,200")
    assert TASKS["gsm8k"].score(problem, text) == is_right


def test_math_is_asked_in_both_styles(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", MATH)
    [problem] = read_problems(TASKS["math"], path, shots=1, examples=path)
    once = "Problem:\nWhat is $1/2+1/4$?\n\nSolution:"
    assert problem.prompt == f"{once} {MATH[0]['solution']}\n\n{once}"
    assert problem.answer == r"\frac{3}{4}"
    [problem] = read_problems(TASKS["math"], path, shots=0, style="chat")
    assert problem.prompt.endswith("?\nPlease reason step by step, and put your final answer "
                                   "within \\boxed{}.")  # fmt: skip


def test_math_takes_the_answer_of_the_file_where_there_is_one(tmp_path: Path) -> None:
    row = MATH[0] | {"answer": "7", "unique_id": "test/algebra/1.json"}
    [problem] = read_problems(TASKS["math"], write(tmp_path / "a.jsonl", [row]), shots=0)
    assert (problem.answer, problem.id) == ("7", "math-test/algebra/1.json")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\fbox{3}", "3"),
        (r"$\boxed 5$ apples", "5"),
        (r"\boxed{a_{1}} then \boxed{b", "a_{1}"),
        ("nothing", None),
    ],
)
def test_the_last_whole_box_is_found(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\frac{1}{2}", r"\dfrac12"), (r"\frac{1}{2}", "0.5"), ("1/2", r"\tfrac{1}{2}"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"\frac1{2}", r"\frac{1}2"), (".5", "0.50"),
        ("1,000", "1000"), (r"10{,}000", r"10,\!000"), (r"\$5", "5"), ("5.", "$5$"),
        (r"50\%", "50"), (r"90^\circ", "90"), (r"90^{\circ}", "90"), ("x=5", "5"), ("x = 5", "5"),
        (r"5\text{ cm}^2", "5"), (r"\text{Monday}", "monday"), (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\sqrt2", r"\sqrt{2}"), (r"x \in [1,2)", r"x\in[1,2)"), ("3.0", "3"),
    ],
)  # fmt: skip
def test_the_same_answer_in_other_clothes_is_the_same(left: str, right: str) -> None:
    assert is_equal(left, right) and is_equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1", "2"), (r"\frac{1}{2}", "2"), ("12", "1,2"), ("(1,2)", "(2,1)"), ("x", "y"),
        ("2x=6", "26"), ("[1,2)", "(1,2)"), ("-5", "5"), (r"\frac{1}{0}", r"\frac{2}{0}"),
        ("", "0"), (r"\sqrt{2}", r"\sqrt{3}"),
    ],
)  # fmt: skip
def test_other_answers_are_others(left: str, right: str) -> None:
    assert not is_equal(left, right)


@given(st.text(st.sampled_from("0123456789.,-$ \\{}frac/boxedtxn=%^\n"), max_size=60))
def test_no_text_breaks_the_scorers(text: str) -> None:
    problem = Problem("1", "math", "", "", r"\frac{3}{4}")
    assert TASKS["math"].score(problem, text) in (True, False)
    assert TASKS["gsm8k"].score(Problem("1", "gsm8k", "", "", "5"), text) in (True, False)
    assert is_equal(text, text)
    assert canonical(text) == canonical(f" {text} ")


def test_numbers_too_long_for_python_are_no_number() -> None:
    assert last_number("9" * 10_000) is None
    assert not is_equal("9" * 10_000, "8" * 10_000)


def test_humaneval_is_asked_as_published(tmp_path: Path) -> None:
    path = write(tmp_path / "HumanEval.jsonl.gz", HUMANEVAL)
    [problem] = read_problems(TASKS["humaneval"], path)
    assert problem.prompt == HUMANEVAL[0]["prompt"]
    [chat] = read_problems(TASKS["humaneval"], path, style="chat")
    assert chat.prompt == f"Complete the following python code:\n{problem.prompt}"


def test_mbpp_is_asked_with_the_examples_and_problems_of_its_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "mbpp.jsonl", MBPP)
    problems = read_problems(TASKS["mbpp"], path)
    assert [problem.id for problem in problems] == ["mbpp-11", "mbpp-510"]
    task = (
        "You are an expert Python programmer, and here is your task: Write a function to add one. "
        "Your code should pass these tests:\n\nassert inc(1) == 2\nassert inc(0) == 1\n"
        "assert inc(-1) == 0\n[BEGIN]\n"
    )
    example = f"{task}def inc(x):\n    return x + 1\n[DONE]\n\n"
    assert problems[0].prompt == 3 * example + task


def test_the_sanitized_mbpp_has_other_names(tmp_path: Path) -> None:
    row = {"task_id": 11, "prompt": "Add one.", "code": "def inc(x): return x + 1",
           "test_imports": ["import math"], "test_list": ["assert inc(1) == 2"]}  # fmt: skip
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([row]))
    [problem] = read_problems(TASKS["mbpp"], path, shots=0)
    assert problem.prompt.startswith(
        "You are an expert Python programmer, and here is your task: Ad"
    )
    assert problem.answer == {"setup": "\nimport math", "tests": "assert inc(1) == 2"}


HUMANEVAL_RIGHT = [
    "    return [x + x for x in xs]\n",
    "    return [x + x for x in xs]\n\n\ndef other():\n    return undefined_name[\n",
    "Here it is:\n```python\nfrom typing import List\n\ndef twice(xs: List[int]) -> List[int]:\n"
    "    return [x * 2 for x in xs]\n```\nIt doubles.",
    "def twice(xs: List[int]):\n    return [x * 2 for x in xs]",
    "    return [x + x for x in xs]\n\ndef twice(xs):\n    return 0",
]
HUMANEVAL_WRONG = ["", "    return xs\n", "    return [", "```python\n```", "    exit()\n", "text"]
MBPP_RIGHT = [
    "def inc(x):\n    return 1 + x\n[DONE]\n\nand so on (",
    "```python\ndef inc(x): return x + 1\n```",
]
MBPP_WRONG = [
    "",
    "def inc(x):\n    return x",
    "import sys\nsys.exit(0)",
    "[DONE]def inc(x): return x + 1",
]


def test_programs_are_scored_by_running_them(tmp_path: Path) -> None:
    tasks = published_tasks(CodeLimits(time_s=2.0))
    [problem] = read_problems(tasks["humaneval"], write(tmp_path / "h.jsonl", HUMANEVAL))
    texts = [problem.reference, *HUMANEVAL_RIGHT, *HUMANEVAL_WRONG]
    try:
        verdicts = tasks["humaneval"].score_many([problem] * len(texts), texts)
    except ConfigError as error:
        pytest.skip(str(error))
    assert verdicts == [True] * (1 + len(HUMANEVAL_RIGHT)) + [False] * len(HUMANEVAL_WRONG)
    problem = read_problems(tasks["mbpp"], write(tmp_path / "m.jsonl", MBPP))[0]
    texts = [problem.reference, *MBPP_RIGHT, *MBPP_WRONG]
    verdicts = tasks["mbpp"].score_many([problem] * len(texts), texts)
    assert verdicts == [True] * (1 + len(MBPP_RIGHT)) + [False] * len(MBPP_WRONG)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_no_program_runs_unless_asked_for(tmp_path: Path, name: str) -> None:
    problem = read_problems(TASKS[name], write(tmp_path / "a.jsonl", ROWS[name]))[0]
    trace = tmp_path / "ran"
    with pytest.raises(ConfigError, match=r"nobody has asked for: give --run-code"):
        TASKS[name].score(problem, f"open({str(trace)!r}, 'w')")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "q"}\n', "row 0 of .*: answer is missing; .* It has question"),
        ("a.jsonl", '{"question": 1, "answer": "#### 1"}\n', "question is a int; a str is needed"),
        ("a.jsonl", '{"question": "q", "answer": "so 5"}\n', "does not end with '#### <number>'"),
        ("a.jsonl", "", "has no problem of gsm8k"),
        ("a.jsonl", "[1]\n", "row 0 of .* is no object but a list"),
        ("a.jsonl", '{"question"', "cannot be read"),
        ("a.jsonl.gz", "no gzip", "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.csv", "q,a", r"\.jsonl, \.jsonl\.gz, \.json and \.parquet are read"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_problems(TASKS["gsm8k"], tmp_path / name, shots=0)


def test_missing_files_and_examples_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_problems(TASKS["gsm8k"], tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=r"holds no \.json file"):
        read_problems(TASKS["math"], tmp_path)
    path = write(tmp_path / "a.jsonl", GSM8K)
    with pytest.raises(ConfigError, match="asked with 5 examples and there are 0: give a file"):
        read_problems(TASKS["gsm8k"], path)
    with pytest.raises(ConfigError, match="asked with 5 examples and there are 2"):
        read_problems(TASKS["gsm8k"], path, examples=path)
    with pytest.raises(ConfigError, match="shots must be at least 0"):
        read_problems(TASKS["gsm8k"], path, shots=-1)
