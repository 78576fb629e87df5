"""Runs the Python blocks of one page, one after the other, as one ``__main__``.

Reads a JSON object per line from the first file descriptor given, and answers ``ok`` or ``failed``
on the second once the block has run. Line numbers in tracebacks are those of the page.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import traceback
import types


def _main() -> None:
    blocks = os.fdopen(int(sys.argv[1]))
    answers = os.fdopen(int(sys.argv[2]), "w")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [""]
    sys.path[0] = ""  # as of an interpreter that was started in the page's folder
    for line in blocks:
        block = json.loads(line)
        source = "\n" * (block["line"] - 1) + block["text"]
        name = f"<{block['page']}>"
        # Without a time of change the entry is never asked for in the file system.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        answer = "ok"
        try:
            exec(compile(source, name, "exec"), module.__dict__)
        except BaseException:  # SystemExit too: the other blocks are still to run
            traceback.print_exc()
            answer = "failed"
        sys.stdout.flush()
        sys.stderr.flush()
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _main()
