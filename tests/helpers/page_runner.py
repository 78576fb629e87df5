"""Runs the blocks of one page in a folder of its own, as a reader would."""

from __future__ import annotations

import doctest
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.helpers.code_blocks import SHELL, CodeBlock
from tests.helpers.page_processes import ROOT, Processes

TIMEOUT_S: Final = 300.0  # ends what hangs; a busy machine may be several times slower
_GOODBYE_S: Final = 20.0

# Copies, because a block may write there.
_COPIED: Final = ("benchmarks", "examples", "tools")

_SERVE: Final = re.compile(r"^starr-engine serve\b(.*)$", re.MULTILINE)
_ADDRESS: Final = re.compile(r"(127\.0\.0\.1|localhost):\d+")
_COMMAND: Final = re.compile(r"((?:.*\\\n)*.*\n)([\s\S]*)")
_PRINTED: Final = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
_OPTIONS: Final = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class PageRunner:
    """The folder, the interpreter and the processes of one page.

    Every ``starr-engine serve`` gets a free port and goes on in the background; the blocks behind
    it find it there. ``print(...)  # text`` in Python says what is printed.

    Args:
        folder: Empty; the blocks' working folder.
        timeout_s: For one block.
    """

    def __init__(self, folder: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._processes = Processes(folder, folder.with_name(f"{folder.name}.log"))
        self._interpreter: _Interpreter | None = None
        self._port: int | None = None
        for name in _COPIED:
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._interpreter is not None:
            self._interpreter.leave()
        self._processes.close()

    def run(self, block: CodeBlock) -> str:
        """Run it, and what comes before it; gives what it wrote.

        Raises:
            AssertionError: If it fails, does not end, or writes something else than the page says.
        """
        if block.first:
            self._run_shell(block, block.first)
        if block.language in SHELL:
            return self._run_shell(block, block.text)
        if block.language == "console":
            return self._run_console(block)
        return self._run_python(block)

    def _run_shell(self, block: CodeBlock, script: str) -> str:
        script = _SERVE.sub(self._serve, self._here(script).replace("\\\n", " "))
        process = self._processes.start(["bash", "-eu", "-o", "pipefail", "-c", script])
        try:
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            written = self._processes.written()
            raise block.refused(f"not done in {self._timeout_s:g} s\n{written}") from None
        written = self._processes.written()
        if code != 0:
            raise block.refused(f"exit code {code}\n{written}")
        return written

    def _run_console(self, block: CodeBlock) -> str:
        """Commands behind ``$`` and what they write, in which ``...`` stands for anything."""
        outputs = []
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            found = _COMMAND.fullmatch(part)
            assert found is not None
            outputs.append(self._run_shell(block, found[1]))
            if not doctest.OutputChecker().check_output(found[2], outputs[-1], _OPTIONS):
                raise block.refused(f"{found[1].strip()} writes\n{outputs[-1]}")
        return "".join(outputs)

    def _run_python(self, block: CodeBlock) -> str:
        if self._interpreter is None:
            self._interpreter = _Interpreter(self._processes)
        answer = self._interpreter.run(block, self._here(block.text), self._timeout_s)
        written = self._processes.written()
        if answer != "ok":
            raise block.refused(f"{answer}\n{written}")
        lines = iter(written.splitlines())
        for said in _PRINTED.findall(block.text):
            if said not in lines:  # ``in`` goes on behind the line found before
                raise block.refused(f"{said!r} is not printed, or not in this order:\n{written}")
        return written

    def _here(self, text: str) -> str:
        """The text with the address of the page's own server, once there is one."""
        return text if self._port is None else _ADDRESS.sub(rf"\1:{self._port}", text)

    def _serve(self, match: re.Match[str]) -> str:
        """The command on a free port, in the background, and a wait until it listens."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        rest = re.sub(r"\s+#.*$|\s--port[ =]\d+", "", match[1]).rstrip().removesuffix("&")
        return (
            f"starr-engine serve --port {self._port} {rest} &\n"
            f"until (exec 3<>/dev/tcp/127.0.0.1/{self._port}) 2>/dev/null; do\n"
            "  kill -0 $!\n  sleep 0.1\ndone"
        )


class _Interpreter:
    """One Python process for all Python blocks; see ``block_interpreter``."""

    def __init__(self, processes: Processes) -> None:
        reads_blocks, blocks = os.pipe()
        answers, writes_answers = os.pipe()
        script = str(ROOT / "tests" / "helpers" / "block_interpreter.py")
        words = [sys.executable, script, str(reads_blocks), str(writes_answers)]
        self._process = processes.start(words, pass_fds=(reads_blocks, writes_answers))
        os.close(reads_blocks)
        os.close(writes_answers)
        self._blocks = os.fdopen(blocks, "w")
        self._answers = os.fdopen(answers)

    def run(self, block: CodeBlock, text: str, timeout_s: float) -> str:
        """Gives ``ok``, or what has happened instead."""
        asked = {"page": block.page, "line": block.line, "text": text}
        print(json.dumps(asked), file=self._blocks, flush=True)
        if not select.select([self._answers], [], [], timeout_s)[0]:
            self._process.kill()
            return f"not done in {timeout_s:g} s"
        return self._answers.readline().strip() or "the interpreter has died"

    def leave(self) -> None:
        """End it as the end of a program does, if it can."""
        self._blocks.close()
        with suppress(subprocess.TimeoutExpired):  # the processes' close ends it then
            self._process.wait(_GOODBYE_S)
        self._answers.close()
