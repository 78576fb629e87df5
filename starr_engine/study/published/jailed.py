"""Runs one program and says how it ended; started by ``jail.py``, never imported.

Reads a JSON request from stdin: ``source``, ``time_s``, and a ``token`` that the program does not
know. The answer is one JSON line on what was stdout; the program itself has neither stdin nor
stdout. Leaves with status ``OUT_OF_TIME`` when the time is over.
"""

import json
import os
import signal
import sys

OUT_OF_TIME = 4
_MAX_REASON_CHARS = 300


def _run(source: str) -> str:
    """What went wrong, or an empty text."""
    scope = {"__name__": "__main__"}
    try:
        exec(compile(source, "program", "exec"), scope)  # the purpose of this fenced process
    except MemoryError:
        return "out of memory"
    except SystemExit:
        return "left before its tests were over"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]
    return ""


def main() -> None:
    """Serve one request."""
    request = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 0)  # stderr is the null device from the start: no device can be opened here
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(OUT_OF_TIME))
    signal.setitimer(signal.ITIMER_REAL, request["time_s"])
    problem = _run(request["source"])
    token = request["token"]
    os.write(answer, json.dumps({"token": token, "problem": problem}).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
