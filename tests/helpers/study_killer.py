"""Runs a study of a fake model in children that end at random moments, until one is complete.

    python -m tests.helpers.study_killer QUESTIONS FOLDER SEED

Prints how many ended early, by signal. SIGALRM, which nothing handles, so that it ends a child as
SIGKILL does but at whatever instruction it is, SIGINT and SIGTERM take turns at random. A timer
that starts with a child's first step is set for longer from child to child, so that an end comes
however slow the machine is. Children are forked, since importing torch anew takes seconds.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import threading
from pathlib import Path

from starr_engine.study.grid.axes import Grid
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob
from starr_engine.study.grid.read import make_grid
from starr_engine.study.grid.run import run_study
from tests.helpers.fake_bench import fake_benches

SIGNALS = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)


def killed_grid(questions: Path) -> Grid:
    thresholds = [0.1, 0.3, 0.5, 0.7, 0.9]
    return make_grid(
        {
            "models": ["one", "two"],
            "tasks": [str(questions)],
            "caches": ["none", "dual", "dllm"],
            "remasking": ["low_confidence", {"threshold": {"threshold": thresholds}}],
        }
    )


class DeadlyTimer:
    """Called before each step; the first call starts the timer."""

    def __init__(self, delay_s: float, number: signal.Signals) -> None:
        self._delay_s, self._number = delay_s, number
        self._is_started = False

    def __call__(self) -> None:
        if self._is_started:
            return
        self._is_started = True
        if self._number == signal.SIGALRM:  # from the system, between any two instructions
            signal.setitimer(signal.ITIMER_REAL, self._delay_s)
        else:
            timer = threading.Timer(self._delay_s, os.kill, (os.getpid(), self._number))
            timer.daemon = True
            timer.start()


def run_child(job: StudyJob, delay_s: float, number: signal.Signals) -> None:
    """Ends the process: with 0 only if the study is complete."""
    try:
        run_study(job, make_bench=fake_benches(before_step=DeadlyTimer(delay_s, number)))
    except (StudyInterruptedError, KeyboardInterrupt):
        os._exit(128 + number)
    os._exit(0)


def main() -> None:
    questions, folder, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    job = StudyJob(grids=(killed_grid(questions),), folder=folder, resume=True)
    ended: collections.Counter[str] = collections.Counter()
    while True:
        delay = rng.uniform(0.001, 0.02 * (1 + ended.total()))
        number = rng.choice(SIGNALS)
        child = os.fork()
        if child == 0:
            run_child(job, delay, number)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            break
        assert code in (-number, 128 + number), f"a child ended with {code}"
        ended[number.name] += 1
    print(" ".join(f"{name}={count}" for name, count in sorted(ended.items())))


if __name__ == "__main__":
    main()
