"""Find a policy's arguments on prompts: the fewest forwards at a required agreement or accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Protocol

from starr_engine.config import EngineConfig
from starr_engine.offline.journal import Journal, Settings
from starr_engine.offline.rows import Encoder
from starr_engine.offline.signals import StopSignals
from starr_engine.params import SamplingParams
from starr_engine.study.calibration.job import (
    CalibrationInterruptedError,
    CalibrationJob,
    check_job,
)
from starr_engine.study.calibration.measurements import Record, StoppedError
from starr_engine.study.calibration.progress import SearchProgress
from starr_engine.study.calibration.prompts import (
    PromptSet,
    check_prompts,
    read_prompts,
    split_prompts,
)
from starr_engine.study.calibration.report import CalibrationReport, as_file
from starr_engine.study.calibration.run import CalibrationRun, decoding_record, model_record
from starr_engine.study.runner import StudyEngine

FORMAT_VERSION: Final = 1
"""Of the journal; raised when its records change their meaning."""


class CalibrationLLM(Protocol):
    """What a calibration runs on; ``starr_engine.LLM`` is one."""

    @property
    def engine(self) -> StudyEngine:
        """Runs the requests."""

    @property
    def tokenizer(self) -> Encoder:
        """Makes the ids; raises RequestError if the model has none."""


def run_calibration(llm: CalibrationLLM, job: CalibrationJob) -> CalibrationReport:
    """Search, measure what was found on held-out prompts, and write the policy file.

    Equal jobs on equal engines give equal reports, interrupted or not: every finished evaluation
    is in a journal beside the output, which ``job.resume`` reads. The journal also serves a search
    for another goal, with another seed or another plan.

    Raises:
        ConfigError: If prompts, space or output cannot be used.
        RequestError: If a prompt cannot run.
        GoalNotReachedError: If no setting reaches the goal; the journal stays.
        CalibrationInterruptedError: On SIGINT or SIGTERM; likewise.
    """
    space = check_job(job)
    prompts = read_prompts(
        job.prompts,
        job.params,
        lambda: llm.tokenizer,
        limit=job.max_prompts,
        seed=job.plan.seed,
        with_problems=job.goal.measure == "accuracy",
    )
    check_prompts(prompts, job.goal)
    parts = split_prompts(len(prompts.prompts), job.held_out, job.plan.seed)
    records: list[Record] = []
    with (
        Journal(
            job.output,
            _settings(llm.engine.config, job.params, prompts),
            resume=job.resume,
            overwrite=job.overwrite,
            on_row=records.append,
        ) as journal,
        StopSignals() as stop,
        SearchProgress(0, enabled=job.progress) as bar,
    ):
        run = CalibrationRun(job, space, prompts, parts, llm.engine, journal, stop, bar)
        for record in records:
            run.measurements.restore(record)
        try:
            report = run.report()
        except StoppedError:
            assert stop.received is not None
            raise CalibrationInterruptedError(stop.received, journal) from None
        finally:
            journal.sync()
        content = json.dumps(as_file(report), indent=1) + "\n"

        def write(path: Path) -> None:
            path.write_text(content)

        journal.publish(write)
    return report


def _settings(config: EngineConfig, params: SamplingParams, prompts: PromptSet) -> Settings:
    """What the evaluations depend on, and so what a journal can be continued with."""
    return {
        "journal_format": FORMAT_VERSION,
        "prompts": prompts.fingerprint,
        "policy": params.remasking,
        "fixed": dict(params.remasking_args),
        **model_record(config),
        **decoding_record(params),
    }
