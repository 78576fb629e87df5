"""The command as a whole: its sub-commands, its help, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from starr_engine import __version__
from starr_engine.cli.main import COMMANDS, main


def test_an_unknown_command_lists_those_that_exist(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["deploy"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: starr-engine {command}" in capsys.readouterr().out


def test_the_module_runs_as_the_command_and_imports_nothing_heavy_for_its_version():
    script = (
        "import runpy, sys\n"
        "sys.argv = ['starr_engine', '--version']\n"
        "try:\n    runpy.run_module('starr_engine', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"starr-engine {__version__}\n"


def test_a_reader_that_goes_away_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m starr_engine info | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 141)
