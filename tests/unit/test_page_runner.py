"""What is wrong with a code block of a page shows, by page and line; what it starts ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.code_blocks import CodeBlock, blocks_of
from tests.helpers.page_runner import PageRunner
from tests.helpers.unrun_blocks import check_unrun

Parse = Callable[[str], list[CodeBlock]]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    def write(text: str) -> list[CodeBlock]:
        (tmp_path / "page.md").write_text(text)
        return blocks_of(tmp_path / "page.md", tmp_path)

    return write


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[PageRunner]:
    (tmp_path / "folder").mkdir()
    with PageRunner(tmp_path / "folder") as runner:
        yield runner


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def test_blocks_have_their_line_and_what_is_said_of_them(parse: Parse) -> None:
    plain, unrun, prepared = parse(
        "Text.\n\n"
        + fence("sh", "true")
        + "\n- An item:\n\n  <!-- not run: needs a GPU -->\n  ```python\n  f()\n  ```\n\n"
        + "<!-- run first: touch a\ntouch b -->\n"
        + fence("sh", "ls a b")
    )
    assert (plain.line, plain.is_run) == (4, True)
    assert (unrun.line, unrun.text, unrun.not_run) == (11, "f()\n", "needs a GPU")
    assert prepared.first == "touch a\ntouch b"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (fence("", "ls"), "page.md:2: say which language"),
        (fence("rust", "ls"), "page.md:2: say which language"),
        (fence("cpp", "int i;"), "nothing compiles it"),
        ("<!-- not run: -->\n" + fence("sh", "ls"), "without a reason"),
        ("<!-- not run -->\n" + fence("sh", "ls"), "without a reason"),
        ("<!-- not run: slow -->\n\nText.\n\n" + fence("sh", "ls"), "no block follows"),
        ("<!-- not run: slow -->\n", "no block follows"),
    ],
)
def test_a_page_that_does_not_say_enough_is_refused(parse: Parse, text: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        parse(text)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "f("),
        ("python", "from starr_engine import Missing"),
        ("sh", "starr-engine batch --no-such-flag"),
        ("console", "$ starr-engine info --no-such-flag\nmodels:"),
        ("json", "{'a': 1}"),
        ("toml", "a ="),
        ("yaml", "a: ["),
        ("yaml", "models: [tiny-llada]\nno_such_axis: 1"),
    ],
)
def test_what_does_not_run_must_be_valid(
    parse: Parse, tmp_path: Path, language: str, text: str
) -> None:
    [block] = parse("<!-- not run: no need -->\n" + fence(language, text))
    with pytest.raises(AssertionError, match=r"page\.md:3: "):
        check_unrun(block, tmp_path)


def test_blocks_share_a_folder_and_python_blocks_a_program(
    parse: Parse, runner: PageRunner
) -> None:
    text = (
        fence("sh", "echo 5 > number\npython -c 'import starr_engine'")
        + fence("python", "n = int(open('number').read())\nclass Own: pass")
        + fence(
            "python", "import pickle\nprint(n, Own.__module__)  # 5 __main__\npickle.dumps(Own)"
        )
        + fence("console", "$ cat \\\n    number\n5\n$ echo one two; echo three\none ...")
    )
    for block in parse(text):
        runner.run(block)


@pytest.mark.parametrize(
    ("language", "text", "problem"),
    [
        ("sh", "echo before; false; echo behind", "page.md:2: exit code 1\nbefore\n"),
        ("sh", "false | true", "exit code 1"),
        ("console", "$ echo 1\n2", "echo 1 writes\n1"),
        ("python", "\nraise ValueError(7)", "line 3, in <module>(.|\n)*ValueError: 7"),
        ("python", "import os; os._exit(1)", "has died"),
        ("python", "print(2)  # 3", "'3' is not printed"),
        ("python", "print(1)  # 1\nprint(1)\nprint(3)  # 1\nprint(4)  # 1", "'1' is not printed"),
    ],
)
def test_a_block_that_fails_shows_what_it_wrote(
    parse: Parse, runner: PageRunner, language: str, text: str, problem: str
) -> None:
    [block] = parse(fence(language, text))
    with pytest.raises(AssertionError, match=problem):
        runner.run(block)


def test_what_hangs_and_what_is_left_running_ends(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    sleepers = parse(
        fence("sh", "sleep 1000 &\necho $! > pid")
        + fence("sh", "sleep 1000")
        + fence("python", "import time; time.sleep(1000)")
    )
    before = psutil.Process().children(recursive=True)  # of other tests
    with PageRunner(tmp_path / "folder", timeout_s=2) as runner:
        runner.run(sleepers[0])
        left = psutil.Process(int((tmp_path / "folder" / "pid").read_text()))
        assert left.is_running()
        for block in sleepers[1:]:
            with pytest.raises(AssertionError, match="not done in 2 s"):
                runner.run(block)
        others = set(psutil.Process().children(recursive=True)).difference(before)
    psutil.wait_procs([left, *others], timeout=10)
    assert not any(process.is_running() for process in [left, *others])
