"""The restricted child of ``sandbox``; run as a script, never imported.

Reads one JSON request from stdin and prints one line ``[index, results]`` per function.
Each function runs in a fork of its own, which sends its results through a pipe: only this
process writes to stdout, so a function cannot forge the result of another.
"""

import builtins
import json
import os
import resource
import signal
import sys
from typing import Any

_MAX_REPLY_BYTES = 65536  # what a pipe holds on Linux: a fork never blocks on writing


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _call(source: str, function: str, inputs: list[list[Any]], names: list[str]) -> bytes:
    allowed: dict[str, Any] = {name: getattr(builtins, name) for name in names}
    scope: dict[str, Any] = {"__builtins__": allowed}
    exec(compile(source, "candidate", "exec"), scope)  # the purpose of this restricted process
    return json.dumps([scope[function](*arguments) for arguments in inputs]).encode()


def _run_forked(job: list[Any], names: list[str], time_limit_s: int) -> object:
    """Return the function's results, or None for any kind of failure."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            _limit(resource.RLIMIT_CPU, time_limit_s)
            _limit(resource.RLIMIT_NPROC, 0)
            signal.alarm(2 * time_limit_s)
            reply = _call(job[0], job[1], job[2], names)
            if len(reply) <= _MAX_REPLY_BYTES:
                os.write(writer, reply)
                status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        reply = pipe.read()
    _, state = os.waitpid(child, 0)
    return json.loads(reply) if state == 0 and reply else None


def main() -> None:
    """Serve one request."""
    request = json.load(sys.stdin)
    _limit(resource.RLIMIT_AS, request["memory_limit_bytes"])
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 16)
    _limit(resource.RLIMIT_CORE, 0)
    for index, job in enumerate(request["jobs"]):
        result = _run_forked(job, request["names"], request["time_limit_s"])
        print(json.dumps([index, result]), flush=True)


if __name__ == "__main__":
    main()
