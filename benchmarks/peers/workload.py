"""The prompts of a comparison, and how answers to them are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.asked import Asked, Prompt
from starr_engine.bench.load import random_prompts
from starr_engine.engine.engine import Engine
from starr_engine.models.base import ModelSpec
from starr_engine.study.intervals import Interval, wilson_interval
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.tasks import ALL_TASKS, Problem
from starr_engine.tokenization import Tokenizer

BLOCK_LENGTH = 32
"""Of bidirectional models."""

THRESHOLD = {"bidirectional": 0.9, "block_causal": 0.85}
"""As Fast-dLLM's and SDAR's authors set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Prompts and how they are decoded."""

    prompts: tuple[Prompt, ...]
    asked: Asked
    problems: tuple[Problem, ...] = ()
    """Of each prompt; empty if answers cannot be scored."""

    tokenizer: Tokenizer | None = None

    def accuracy(self, outputs: Sequence[Sequence[int]]) -> tuple[float, Interval] | None:
        """Share of the answers that are right, with its 95 % interval."""
        if not self.problems:
            return None
        assert self.tokenizer is not None
        right = sum(
            ALL_TASKS[problem.task].score(problem, self.tokenizer.decode(list(output)))
            for problem, output in zip(self.problems, outputs, strict=True)
        )
        share = right / len(outputs)
        return share, wilson_interval(share, len(outputs))


def task_workload(
    engine: Engine, sets: Sequence[str], count: int, seed: int, *, early_stop: bool
) -> Workload:
    """``count`` test problems of each set, the sets in turns."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    each = [PROBLEM_SETS[name].problems("test", count, seed) for name in sets]
    problems = tuple(problem for turn in zip(*each, strict=True) for problem in turn)
    longest = max(PROBLEM_SETS[name].max_tokens for name in sets)
    spec = engine.spec
    return Workload(
        prompts=tuple(
            _prompt(tuple(tokenizer.encode(problem.prompt)), longest, spec) for problem in problems
        ),
        asked=Asked(
            mask=spec.mask_token_id,
            eos=spec.eos_token_ids,
            block_length=spec.block_length or BLOCK_LENGTH,
            tokens_per_step=1,
            threshold=THRESHOLD[spec.attention_kind],
            early_stop=early_stop,
        ),
        problems=problems,
        tokenizer=tokenizer,
    )


def random_workload(
    spec: ModelSpec,
    count: int,
    lengths: tuple[int, int],
    max_tokens: int,
    tokens_per_step: int,
    seed: int,
) -> Workload:
    """Random prompts at a fixed pace: a random model is sure of nothing and ends nothing."""
    prompts = random_prompts(
        count,
        lengths,
        vocab_size=spec.vocab_size,
        excluded_ids=(spec.mask_token_id, *spec.eos_token_ids),
        seed=seed,
    )
    return Workload(
        prompts=tuple(_prompt(ids, max_tokens, spec) for ids in prompts),
        asked=Asked(
            mask=spec.mask_token_id,
            eos=(),
            block_length=spec.block_length or BLOCK_LENGTH,
            tokens_per_step=tokens_per_step,
            threshold=None,
            early_stop=False,
        ),
    )


def _prompt(ids: tuple[int, ...], max_tokens: int, spec: ModelSpec) -> Prompt:
    """Of a block-causal model the canvas becomes whole blocks, as SDAR's loop rounds it up."""
    if spec.block_length is not None:
        max_tokens += -(len(ids) + max_tokens) % spec.block_length
    return Prompt(token_ids=ids, max_tokens=max_tokens)
