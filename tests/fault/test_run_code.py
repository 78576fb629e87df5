"""Programs that a model might write: none harms the machine, the parent or the next program."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from starr_engine.errors import ConfigError
from starr_engine.study.published import run_code
from starr_engine.study.published.run_code import CodeLimits, CodeResult, run_program

SHORT = CodeLimits(time_s=1.0)
BRIEF = CodeLimits(time_s=0.2)


def namespaces_reason() -> str:
    """Why the kernel of this machine gives no fences, or nothing."""
    if not sys.platform.startswith("linux"):
        return "programs are run on Linux only"
    try:
        run_program("pass", SHORT)
    except ConfigError as error:
        return str(error)
    return ""


REASON = namespaces_reason()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "fences hold")


def reason_of(source: str, limits: CodeLimits = SHORT) -> str:
    result = run_program(source, limits)
    assert not result.passed
    return result.reason


def test_a_program_passes_if_all_its_tests_do() -> None:
    assert run_program("def f(x):\n    return x + 1\nassert f(1) == 2", SHORT) == CodeResult(
        passed=True, reason=""
    )
    assert reason_of("assert 1 + 1 == 3").startswith("AssertionError")
    assert "SyntaxError" in reason_of("def f(:")
    assert "no, wrong" in reason_of("raise ValueError('no, wrong')")


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "raise SystemExit"])
def test_leaving_before_the_tests_is_not_passing(leave: str) -> None:
    assert "left before" in reason_of(f"import os, sys\n{leave}\nassert False")


def test_an_answer_that_only_looks_like_the_runners_counts_for_nothing() -> None:
    forged = 'import os\nos.write(3, b\'{"token": "0", "problem": ""}\')\nos._exit(0)'
    assert "left before" in reason_of(forged)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1000)",
        "try:\n    while True:\n        pass\nexcept BaseException:\n    pass",
        "9 ** 9 ** 9",  # one long call inside C: no handler runs, so the limit of CPU does it
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True:\n    pass",
    ],
)
def test_an_endless_program_is_stopped(source: str) -> None:
    assert reason_of(source, BRIEF) == "out of time"


def test_endless_output_is_cut_off() -> None:
    assert run_program("print('x' * 10 ** 7)", SHORT).passed, "stdout leads nowhere"
    assert reason_of("import os\nwhile True:\n    os.write(3, b'x' * 10000)")


def test_a_memory_bomb_ends_with_itself() -> None:
    assert reason_of("x = [0] * 10 ** 10") == "out of memory"
    assert reason_of("x = []\nwhile True:\n    x.append(bytes(10 ** 7))") == "out of memory"


@pytest.mark.parametrize(
    "source",
    [
        "import os\nwhile True:\n    os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.setsid()",
        "import os\nos.setpgid(0, 0)",
    ],
)
def test_no_process_is_started_and_the_group_is_not_left(source: str) -> None:
    reason = reason_of(source)
    assert "not permitted" in reason or "can't start new thread" in reason


@pytest.mark.parametrize(
    "name",
    ["os.getppid()", pytest.param(str(os.getpid()), id="the process of the tests"), "1", "-1", "0"],
)
def test_nobody_is_signalled(name: str) -> None:
    assert "PermissionError" in reason_of(f"import os\nos.kill({name}, 9)")


def test_a_server_on_this_machine_cannot_be_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        port = server.getsockname()[1]
        assert reason_of(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))")
        local.bind(str(tmp_path / "daemon"))
        local.listen()
        path = str(tmp_path / "daemon")
        assert reason_of(f"import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})")
        for each in (server, local):
            each.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                each.accept()


def test_nothing_outside_is_written_or_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for action in (
        f"open({str(kept)!r}, 'w').write('x')",
        f"__import__('os').remove({str(kept)!r})",
        f"__import__('os').rename({str(kept)!r}, 'here')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('/dev/shm/starr-engine-test', 'w')",
    ):
        assert reason_of(action)
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [kept]


def test_the_fences_cannot_be_taken_down() -> None:
    remount = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "libc.unshare(0x10000000 | 0x20000)\n"  # a user and mount namespace of its own
        "assert libc.mount(None, b'/', None, 32 | 4096, None) == 0"  # remount, read-write
    )
    assert reason_of(remount).startswith("AssertionError")
    assert "Error" in reason_of("import os\nos.open('/dev/null', os.O_RDWR)")


def test_its_own_folder_is_empty_bounded_and_gone_afterwards() -> None:
    report = "import os\nassert not os.listdir()\nopen('a', 'w').write('x')\nraise ValueError({})"
    folder = reason_of(report.format("os.getcwd()")).removeprefix("ValueError: ")
    assert folder.startswith("/") and not Path(folder).exists()
    assert "too large" in reason_of("open('a', 'wb').write(bytes(2 ** 21))")
    many = "for i in range(100):\n    open(str(i), 'wb').write(bytes(2 ** 20))"
    assert "No space" in reason_of(many)


def test_there_is_no_stdin_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARR_TEST_SECRET", "do not tell")
    assert "EOFError" in reason_of("input()")
    assert run_program("import os\nassert 'STARR_TEST_SECRET' not in os.environ", SHORT).passed


def living_members(group: int) -> list[str]:
    """Processes of a process group that are not just waiting to be reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


def test_every_process_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    kill_group = run_code._kill_group

    def kill_and_note(process: subprocess.Popen[bytes]) -> None:
        assert os.getpgid(process.pid) == process.pid
        groups.append(process.pid)
        kill_group(process)

    monkeypatch.setattr(run_code, "_kill_group", kill_and_note)
    monkeypatch.setattr(run_code, "_START_S", 0.2)
    run_program("import signal, time\nsignal.setitimer(0, 0)\ntime.sleep(100)", SHORT)
    [group] = groups
    while living_members(group):  # the kernel ends a killed process soon, not at once
        pass


def test_without_namespaces_nothing_runs_unless_the_network_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = (run_code._JAIL).read_text()
    jail = tmp_path / "jail.py"
    jail.write_text(source.replace("_libc.unshare(spaces)", "-1"))
    jail.with_name("jailed.py").write_text((run_code._JAIL).with_name("jailed.py").read_text())
    monkeypatch.setattr(run_code, "_JAIL", jail)
    trace = tmp_path / "ran"
    with pytest.raises(ConfigError, match=r"not run: the kernel gives no user namespace.*allow_"):
        run_program(f"open({str(trace)!r}, 'w')", SHORT)
    assert not trace.exists()
    allowed = CodeLimits(time_s=1.0, allow_network=True)
    assert run_program("assert True", allowed).passed
    assert run_program("import socket\nsocket.socket()", allowed).passed
    assert "not permitted" in reason_of("import os\nos.fork()", allowed)
    assert "not permitted" in reason_of("import os\nos.kill(os.getppid(), 9)", allowed)
    brief = CodeLimits(time_s=0.2, allow_network=True)
    assert reason_of("while True:\n    pass", brief) == "out of time"


@pytest.mark.parametrize("name", ["time_s", "memory_bytes", "file_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_limit_must_be_above_zero_and_finite(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be above 0 and at most"):
        CodeLimits(**{name: value})
