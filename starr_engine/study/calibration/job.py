"""What a calibration is asked to do, and the ways in which it can end early."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, StarrError
from starr_engine.offline.journal import Journal, check_output
from starr_engine.params import SamplingParams
from starr_engine.study.calibration.outcomes import Goal
from starr_engine.study.calibration.search import SearchPlan
from starr_engine.study.calibration.spaces import SearchSpace, space_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationJob:
    """What is calibrated, on what, and where the result goes."""

    prompts: str
    """A file of rows as a batch job reads them, or shipped sets; see ``read_prompts``."""

    output: Path
    """The policy file."""

    goal: Goal

    params: SamplingParams = field(default_factory=SamplingParams)
    """``remasking`` is the policy to calibrate, ``remasking_args`` are the arguments of it that
    keep their value; all else is how outputs are decoded, the reference's too."""

    space: tuple[str, ...] = ()
    """Ranges in place of, or beside, those that the policy has; see ``space_of``."""

    plan: SearchPlan = field(default_factory=SearchPlan)

    max_prompts: int = 200
    """Most prompts; of more, this many are drawn."""

    held_out: float = 0.5
    """Share of the prompts that only the report sees."""

    resume: bool = False
    """Continue the journal of an interrupted run; without one, start."""

    overwrite: bool = False
    """Replace an existing output when the new one is complete."""

    progress: bool = False
    """Show a progress bar on standard error."""


class CalibrationInterruptedError(StarrError):
    """A signal stopped the job; the journal holds what was finished."""

    def __init__(self, received: signal.Signals, journal: Journal) -> None:
        super().__init__(
            f"stopped by {received.name}; {journal.path} holds {journal.num_rows} evaluations: "
            "run the same command with --resume to continue"
        )
        self.exit_code = 128 + received
        """What a shell expects of a process that a signal ended."""


class GoalNotReachedError(StarrError):
    """No setting that was tried reaches the goal."""


def check_job(job: CalibrationJob) -> SearchSpace:
    """Check what can be checked before a model is loaded.

    Returns:
        The space that will be searched.

    Raises:
        ConfigError: If the output cannot be written, a number is out of range, or there is nothing
            to search.
        RequestError: If the policy is unknown.
    """
    problems = []
    if not 0.0 <= job.goal.least <= 1.0:
        problems.append(f"the required level must lie in [0, 1], got {job.goal.least}")
    if job.max_prompts < 1:
        problems.append(f"max_prompts must be at least 1, got {job.max_prompts}")
    if not 0.0 < job.held_out < 1.0:
        problems.append(f"the held-out share must lie between 0 and 1, got {job.held_out}")
    if problems:
        raise ConfigError("; ".join(problems))
    check_output(job.output, resume=job.resume, overwrite=job.overwrite)
    policy = job.params.remasking
    declared = fields(cast(Any, REMASKING_POLICIES.get(policy)))
    known = [each.name for each in declared if each.init]
    return space_of(policy, job.space, job.params.remasking_args, known)
