"""Outcomes of settings on prompts: run once, kept, and written down as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starr_engine.outputs import RequestOutput
from starr_engine.params import Args, SamplingParams
from starr_engine.study.agreement import ONE_TOKEN_PER_STEP, equal_share, is_identical
from starr_engine.study.calibration.candidates import Setting, key_of
from starr_engine.study.calibration.outcomes import Outcome
from starr_engine.study.calibration.prompts import CalibrationPrompt
from starr_engine.study.runner import StudyEngine, Work, run_work
from starr_engine.study.scoring import scorer_of

REFERENCE = "reference"
"""Key of one token per step, beside the keys of settings."""

Pair = tuple[str, int]
"""Key of a setting, index of a prompt."""

Record = Mapping[str, Any]


class StoppedError(Exception):
    """The caller asked to stop; what was finished is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An outcome with the text that is still to be scored."""

    outcome: Outcome
    text: str


class Measurements:
    """Runs what is missing of (setting x prompt) in one continuous batch.

    Whatever was run before is not run again. The reference, one token per step under the same
    cache, has to be run on a prompt before any setting is.

    Args:
        engine: Runs the requests.
        prompts: All prompts.
        policy: The remasking policy that is calibrated.
        fixed: Arguments of it that keep one value.
        record: Takes a JSON object for every finished pair; :meth:`restore` reads it back.
        is_stopped: Asked between steps.
        on_progress: Called after every finished pair.
    """

    def __init__(
        self,
        engine: StudyEngine,
        prompts: Sequence[CalibrationPrompt],
        policy: str,
        fixed: Args,
        *,
        record: Callable[[Record], None],
        is_stopped: Callable[[], bool],
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._policy = policy
        self._fixed = fixed
        self._record = record
        self._is_stopped = is_stopped
        self._on_progress = on_progress
        self._references: dict[int, tuple[int, ...]] = {}
        self._measured: dict[Pair, Measured] = {}

    def restore(self, record: Record) -> None:
        """Take a pair that an earlier run has finished."""
        self._keep((record["key"], record["prompt"]), record)

    def run_reference(self, indices: Iterable[int]) -> None:
        """Run one token per step on prompts.

        Raises:
            StoppedError: If ``is_stopped`` said so.
            RequestError: If a request cannot run.
        """
        pairs = [(REFERENCE, at) for at in indices]
        self._run(
            self._work(key, at, ONE_TOKEN_PER_STEP)
            for key, at in pairs
            if (key, at) not in self._measured
        )
        self._score(pairs)

    def run(self, settings: Sequence[Setting], indices: Sequence[int]) -> None:
        """Run settings on prompts; the pairs that are missing share one batch.

        Raises:
            StoppedError: If ``is_stopped`` said so.
            RequestError: If a request cannot run.
        """
        pairs = {
            (key_of(setting), at): {**self._fixed, **setting}
            for setting in settings  # rows of equal policies are decided together
            for at in indices
        }
        self._run(
            self._work(key, at, {"remasking": self._policy, "remasking_args": args})
            for (key, at), args in pairs.items()
            if (key, at) not in self._measured
        )
        self._score(list(pairs))

    def outcomes(self, setting: Setting | None, indices: Iterable[int]) -> list[Outcome]:
        """What was measured; None stands for one token per step."""
        key = REFERENCE if setting is None else key_of(setting)
        return [self._measured[key, at].outcome for at in indices]

    def _work(self, key: str, at: int, policy: Mapping[str, Any]) -> Work[Pair]:
        prompt = self._prompts[at]
        params: SamplingParams = prompt.params.with_overrides(policy)
        return Work(key=(key, at), prompt_token_ids=prompt.token_ids, params=params)

    def _run(self, work: Iterable[Work[Pair]]) -> None:
        if not run_work(self._engine, work, self._finish, is_stopped=self._is_stopped):
            raise StoppedError

    def _finish(self, pair: Pair, output: RequestOutput) -> None:
        key, at = pair
        has_task = self._prompts[at].problem is not None
        record = {
            "key": key,
            "prompt": at,
            "nfe": output.nfe,
            "num_unmasked": output.num_unmasked,
            "token_ids": list(output.token_ids),
            **({"text": output.text} if has_task else {}),
        }
        self._record(record)
        self._keep(pair, record)
        self._on_progress()

    def _keep(self, pair: Pair, record: Record) -> None:
        key, at = pair
        token_ids = tuple(record["token_ids"])
        if key == REFERENCE:
            self._references[at] = token_ids
        reference = self._references[at]
        outcome = Outcome(
            nfe=record["nfe"],
            num_unmasked=record["num_unmasked"],
            is_identical=is_identical(token_ids, reference),
            equal_share=equal_share(token_ids, reference),
        )
        self._measured[pair] = Measured(outcome=outcome, text=record.get("text", ""))

    def _score(self, pairs: Sequence[Pair]) -> None:
        """Score the outputs of problems that are not scored yet, task by task."""
        by_task: dict[str, list[Pair]] = {}
        for key, at in pairs:
            problem = self._prompts[at].problem
            if problem is not None and self._measured[key, at].outcome.is_solved is None:
                by_task.setdefault(problem.task, []).append((key, at))
        for task, mine in by_task.items():
            problems = [problem for _, at in mine if (problem := self._prompts[at].problem)]
            texts = [self._measured[pair].text for pair in mine]
            for pair, right in zip(mine, scorer_of(task).score_many(problems, texts), strict=True):
                scored = replace(self._measured[pair].outcome, is_solved=right)
                self._measured[pair] = Measured(outcome=scored, text="")
