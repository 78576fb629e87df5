"""Runs a study of a fake model in children that die at random moments, until one ends.

    python -m tests.helpers.study_killer QUESTIONS FOLDER SEED

Prints how many died. A timer that nothing handles ends them, at whatever instruction they are; it
starts with a child's first step and is set for longer from child to child, so that an end comes
however slow the machine is. Children are forked, since importing torch anew takes seconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

from starr_engine.study.grid.axes import Grid
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.read import make_grid
from starr_engine.study.grid.run import run_study
from tests.helpers.fake_bench import fake_benches


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

    def __init__(self, delay_s: float) -> None:
        self._delay_s: float | None = delay_s

    def __call__(self) -> None:
        if self._delay_s is not None:
            signal.setitimer(signal.ITIMER_REAL, self._delay_s)
            self._delay_s = None


def main() -> None:
    questions, folder, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    job = StudyJob(grids=(killed_grid(questions),), folder=folder, resume=True)
    num_killed = 0
    while True:
        delay = rng.uniform(0.001, 0.02 * (1 + num_killed))
        child = os.fork()
        if child == 0:
            run_study(job, make_bench=fake_benches(before_step=DeadlyTimer(delay)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGALRM
        num_killed += 1
    print(num_killed)


if __name__ == "__main__":
    main()
