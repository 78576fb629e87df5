"""One calibration on its way: reference, search, choice, held-out numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any, cast

from starr_engine.config import EngineConfig
from starr_engine.decoding.base import REMASKING_POLICIES, RemaskingPolicy
from starr_engine.environment import environment
from starr_engine.errors import RequestError
from starr_engine.offline.journal import Journal, journal_path
from starr_engine.offline.json_lines import json_line
from starr_engine.offline.signals import StopSignals
from starr_engine.params import ArgValue, SamplingParams
from starr_engine.study.calibration.candidates import Setting, key_of
from starr_engine.study.calibration.job import CalibrationJob, GoalNotReachedError
from starr_engine.study.calibration.measurements import Measurements
from starr_engine.study.calibration.outcomes import summarize
from starr_engine.study.calibration.progress import SearchProgress
from starr_engine.study.calibration.prompts import PromptSet
from starr_engine.study.calibration.report import (
    DEFAULTS,
    FRONT,
    ONE_TOKEN,
    CalibrationReport,
    Row,
)
from starr_engine.study.calibration.search import (
    Finalist,
    best_of,
    choose,
    planned_evaluations,
    search,
)
from starr_engine.study.calibration.spaces import SearchSpace
from starr_engine.study.fronts import Point
from starr_engine.study.runner import StudyEngine


class CalibrationRun:
    """One calibration.

    Args:
        job: What is asked.
        space: What ``check_job`` says is searched.
        prompts: All prompts.
        parts: Indices of those for the search and of those held out.
        engine: Runs the requests.
        journal: Takes every finished evaluation.
        stop: Asked between steps.
        bar: Shows what is done.
    """

    def __init__(
        self,
        job: CalibrationJob,
        space: SearchSpace,
        prompts: PromptSet,
        parts: tuple[list[int], list[int]],
        engine: StudyEngine,
        journal: Journal,
        stop: StopSignals,
        bar: SearchProgress,
    ) -> None:
        self._job = job
        self._space = space
        self._prompts = prompts
        self._search_part, self._held_out = parts
        self._config = engine.config
        self._journal = journal
        self._bar = bar
        self._planned = len(prompts.prompts) + planned_evaluations(len(self._search_part), job.plan)
        self.measurements = Measurements(
            engine,
            prompts.prompts,
            job.params.remasking,
            job.params.remasking_args,
            record=lambda record: journal.append(json_line(record)),
            is_stopped=lambda: stop.received is not None,
            on_progress=bar.update,
        )

    def report(self) -> CalibrationReport:
        """Reference, search, choice and held-out numbers, in this order."""
        job = self._job
        self._stage(ONE_TOKEN)
        self.measurements.run_reference((*self._search_part, *self._held_out))
        finalists = search(
            self._space,
            job.plan,
            least=job.goal.least,
            num_prompts=len(self._search_part),
            measure=self._points,
            check=self._check,
            start=self._defaults(),
        )
        best = best_of(finalists)
        chosen = choose(best, job.goal.least)
        if chosen is None:
            raise GoalNotReachedError(self._not_reached(finalists))
        settings = [each.setting for each in best]
        defaults = self._defaults()
        self._stage("held out", len(self._held_out) * len([*settings, *defaults]))
        self.measurements.run([*defaults, *settings], self._held_out)
        rows = [
            self._row(ONE_TOKEN, None),
            *(self._row(DEFAULTS, setting) for setting in defaults),
            *(self._row(FRONT, each.setting, is_chosen=each is chosen) for each in best),
        ]
        return CalibrationReport(
            policy=job.params.remasking,
            goal=job.goal,
            args=self._all_args(chosen.setting),
            rows=rows,
            how=self._how(),
        )

    def _points(self, settings: Sequence[Setting], num_prompts: int) -> list[Point]:
        indices = self._search_part[:num_prompts]
        self._stage(f"{len(settings)} settings x {num_prompts} prompts")
        self.measurements.run(settings, indices)
        measure = self._job.goal.measure
        summaries = [summarize(self.measurements.outcomes(each, indices)) for each in settings]
        return [Point(cost=each.nfe, level=each.level(measure)) for each in summaries]

    def _check(self, setting: Setting) -> RemaskingPolicy:
        args = {**self._job.params.remasking_args, **setting}
        return REMASKING_POLICIES.create(self._job.params.remasking, args)

    def _all_args(self, setting: Setting) -> dict[str, ArgValue]:
        """The setting with every default written out: a later default must not change a file."""
        made = cast(Any, self._check(setting))
        return {each.name: getattr(made, each.name) for each in fields(made) if each.init}

    def _defaults(self) -> list[Setting]:
        """The policy's defaults for what is searched; none if it leaves an argument open."""
        defaults = _default_args(self._job.params.remasking)
        if not all(name in defaults for name in self._space):
            return []
        setting = {name: defaults[name] for name in self._space}
        try:
            self._check(setting)
        except RequestError:  # they do not go together with what is fixed
            return []
        return [setting]

    def _row(self, name: str, setting: Setting | None, *, is_chosen: bool = False) -> Row:
        return Row(
            name=name,
            args={} if setting is None else self._all_args(setting),
            search=summarize(self.measurements.outcomes(setting, self._search_part)),
            held_out=summarize(self.measurements.outcomes(setting, self._held_out)),
            is_chosen=is_chosen,
        )

    def _stage(self, text: str, beyond_plan: int = 0) -> None:
        self._bar.stage(text, self._journal.num_rows, self._planned + beyond_plan)

    def _not_reached(self, finalists: Sequence[Finalist]) -> str:
        goal = self._job.goal
        best = max(finalists, key=lambda each: (each.point.level, -each.point.cost))
        return (
            f"none of {len(finalists)} settings measured on all {len(self._search_part)} search "
            f"prompts reaches {goal.least:g}; the nearest reaches {best.point.level:.3f} at NFE "
            f"{best.point.cost:.2f}: {key_of(best.setting)}. Ask for less or widen the space with "
            f"--space; with --resume the evaluations in {journal_path(self._job.output)} are kept"
        )

    def _how(self) -> dict[str, object]:
        job = self._job
        return {
            "prompts": {
                "source": self._prompts.source,
                "fingerprint": self._prompts.fingerprint,
                "num_search": len(self._search_part),
                "num_held_out": len(self._held_out),
            },
            "decoding": decoding_record(job.params),
            "engine": model_record(self._config),
            "search": {
                **asdict(job.plan),
                "held_out": job.held_out,
                "fixed": dict(job.params.remasking_args),
                "space": {name: asdict(each) for name, each in self._space.items()},
            },
            "environment": environment(),
        }


def _default_args(policy: str) -> dict[str, Any]:
    declared = fields(cast(Any, REMASKING_POLICIES.get(policy)))
    defaults = {}
    for each in declared:
        if each.init and each.default is not MISSING:
            defaults[each.name] = each.default
        elif each.init and each.default_factory is not MISSING:
            defaults[each.name] = each.default_factory()
    return defaults


def model_record(config: EngineConfig) -> dict[str, object]:
    """Which model, in which arithmetic."""
    names = ("model", "dtype", "quantization", "device")
    return {name: getattr(config, name) for name in names}


def decoding_record(params: SamplingParams) -> dict[str, object]:
    """Everything in the parameters but the policy that is calibrated."""
    asked = {each.name: getattr(params, each.name) for each in fields(params)}
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in asked.items()
        if name not in ("remasking", "remasking_args")
    }
