"""The likelihood of answers, many at once."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from starr_engine.errors import ConfigError, RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.study.likelihood.masks import WeightedMask, block_masks
from starr_engine.study.likelihood.probes import (
    Probe,
    ProbedEngine,
    ProbeResult,
    answer_blocks,
    run_probes,
)
from starr_engine.study.likelihood.progress import AnswerProgress, AnswerScore, BlockProgress

DEFAULT_SAMPLES: Final = 128
"""Masks per block: the default of LLaDA's published evaluation (github.com/ML-GSAI/LLaDA)."""

OnScored = Callable[[int, AnswerScore], None]
"""Takes the index of an answer and its score, as soon as it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An answer whose probability behind a context is asked for."""

    context: tuple[int, ...]
    """Token ids, at least one."""

    answer: tuple[int, ...]
    """Token ids without the mask's; an empty one has the likelihood 1."""


class LikelihoodScorer:
    """Scores answers by the bound that ``masks.py`` describes, block by block.

    A bidirectional model masks the whole answer as one block. A block-causal one conditions each
    block on clean earlier ones, and the answer's bound is the sum of theirs. Probabilities leave
    the mask token out, as decoding does.

    Greedy decoding is what the engine's ``low_confidence`` does with one token per step: the
    position whose best token is most probable is filled first. An answer is greedy if every such
    token is its own; the check ends with the first that is not.

    Args:
        engine: With no unfinished requests while it scores.
        samples: Masks per block; blocks with no more masks than that are summed exactly.
        seed: Of the masks. They depend on it, the context and the block's length alone: answers of
            one length to one question are compared under the same masks.
        check_greedy: False leaves ``is_greedy`` out, and its forwards.

    Raises:
        ConfigError: If the model has no such bound, or an argument is out of range.
    """

    def __init__(
        self,
        engine: ProbedEngine,
        *,
        samples: int = DEFAULT_SAMPLES,
        seed: int = 0,
        check_greedy: bool = True,
    ) -> None:
        if refusal := likelihood_refusal(engine.spec):
            raise ConfigError(refusal)
        if samples < 1:
            raise ConfigError(f"a likelihood needs at least one mask per block, got {samples}")
        self._engine = engine
        self._samples = samples
        self._seed = seed
        self._check_greedy = check_greedy

    def score(
        self, questions: Sequence[Question], on_scored: OnScored = lambda index, score: None
    ) -> list[AnswerScore]:
        """Score all answers in one batch.

        Args:
            questions: What is asked.
            on_scored: Told of every answer.

        Returns:
            One score for each, in order.

        Raises:
            RequestError: If one cannot be scored. One that is too long is named before any runs.
        """
        self._check_lengths(questions)
        scores: list[AnswerScore | None] = [None] * len(questions)
        started = map(self._start, itertools.count(), questions)
        pending: deque[tuple[BlockProgress, WeightedMask]] = deque()

        def finish(answer: AnswerProgress) -> None:
            scores[answer.index] = score = answer.score(has_greedy=self._check_greedy)
            on_scored(answer.index, score)

        def take() -> tuple[tuple[BlockProgress, WeightedMask], Probe] | None:
            while not pending and (answer := next(started, None)) is not None:
                pending.extend(answer.first_masks())
                if answer.is_done:
                    finish(answer)
            if not pending:
                return None
            key = pending.popleft()
            return key, Probe(block=key[0].block, positions=key[1].positions)

        def on_result(key: tuple[BlockProgress, WeightedMask], result: ProbeResult) -> None:
            block, mask = key
            block.note(mask, result)
            if (next_mask := block.next_greedy_mask()) is not None:
                pending.appendleft((block, next_mask))
            elif block.answer.is_done:
                finish(block.answer)

        run_probes(self._engine, take, on_result)
        return [score for score in scores if score is not None]

    def _check_lengths(self, questions: Sequence[Question]) -> None:
        limit = self._engine.config.max_model_len or self._engine.spec.max_model_len
        for index, question in enumerate(questions):
            if not question.context:
                raise RequestError(f"question {index} has no context; give at least one token")
            if (length := len(question.context) + len(question.answer)) > limit:
                raise RequestError(
                    f"question {index} has a context of {len(question.context)} tokens and an "
                    f"answer of {len(question.answer)}, which make {length}; the model allows "
                    f"{limit}"
                )

    def _start(self, index: int, question: Question) -> AnswerProgress:
        context = hashlib.sha256(repr(question.context).encode()).hexdigest()
        answer = AnswerProgress(index)
        for number, block in enumerate(
            answer_blocks(question.context, question.answer, self._engine.spec)
        ):
            length = len(block.tokens)
            key = f"{self._seed}/{context}/{number}/{length}"
            masks = block_masks(length, self._samples, key)
            answer.add(BlockProgress(answer, block, masks, check_greedy=self._check_greedy))
        return answer


def likelihood_refusal(spec: ModelSpec) -> str | None:
    """Why answers of a model cannot be scored; None if they can."""
    if spec.noise == "mask":
        return None
    return (
        f"{spec.architecture} has no likelihood here: its rows that are not decided hold tokens "
        "drawn from the whole vocabulary, and the bound is of models that see a mask in their "
        "place; use tasks that generate (generate_until)"
    )
