"""A task of the harness as the problems of a study: its prompts, and its verdict on each answer."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from starr_engine.errors import ConfigError
from starr_engine.study.grid.harness import HarnessTask
from starr_engine.study.lm_eval.arguments import DEFAULT_MAX_GEN_TOKS
from starr_engine.study.lm_eval.generation import parse_generation
from starr_engine.study.lm_eval.prompts import encode_text
from starr_engine.tokenization import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessProblems:
    """Problems of one task."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids."""

    max_tokens: int
    overrides: Mapping[str, Any]
    """Fields of ``SamplingParams`` that the task asks for, such as its stop strings."""

    score: Callable[[Sequence[str]], list[bool]]
    """Which of the answers are right, by the task's own filter and metric."""


def harness_problems(
    asked: HarnessTask, count: int, seed: int, tokenizer: Tokenizer
) -> HarnessProblems:
    """The problems of a task that generates.

    Args:
        asked: Which.
        count: At most so many; of more, some are drawn.
        seed: Of what is drawn, and of the examples in front of a prompt.
        tokenizer: Of the model.

    Raises:
        ConfigError: If there is no such task, it does not generate, runs code, or has no verdict
            of yes or no on each answer.
        RequestError: If the task asks for something that the engine does not offer.
    """
    task = _load(asked)
    _refuse_unfit(asked, task)
    if asked.num_fewshot is not None or task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=asked.num_fewshot or 0)
    task.set_fewshot_seed(seed=seed)
    total = len(task.eval_docs)
    drawn = None
    if total > count:
        drawn = sorted(random.Random(f"rows/{seed}").sample(range(total), count))
    task.build_all_requests(
        samples=drawn,
        apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat,
        chat_template=_chat_template(tokenizer) if asked.chat else None,
    )
    instances = list(task.instances)
    kwargs = instances[0].args[1]
    if any(each.args[1] != kwargs for each in instances):
        raise ConfigError(f"{asked} decodes its problems in several ways; a study has one for all")
    wanted = parse_generation(kwargs, tokenizer, DEFAULT_MAX_GEN_TOKS)
    metric, chosen = _metric(asked, task), _filter(asked, task)

    def score(texts: Sequence[str]) -> list[bool]:
        for instance, text in zip(instances, texts, strict=True):
            instance.resps = [text]
            instance.filtered_resps = {}
        task.apply_filters()
        return [_verdict(asked, task, each, chosen, metric) for each in instances]

    return HarnessProblems(
        prompts=tuple(tuple(encode_text(tokenizer, each.args[0])) for each in instances),
        max_tokens=wanted.max_gen_toks,
        overrides=wanted.overrides,
        score=score,
    )


@functools.cache
def _manager(include_path: str) -> TaskManager:
    """The names of tasks: of a folder, or of the harness, whose own take seconds to list."""
    if include_path:
        return TaskManager(include_path=include_path, include_defaults=False)
    return TaskManager()


def _load(asked: HarnessTask) -> Task:
    manager = _manager(asked.include_path)
    if asked.name not in manager.all_tasks and asked.include_path:
        manager = _manager("")
    if asked.name not in manager.all_tasks:
        where = f" nor in {asked.include_path}" if asked.include_path else ""
        raise ConfigError(
            f"{asked}: the harness has no such task{where}; `starr-engine lm-eval ls tasks` lists "
            "them, and include_path names a folder of others"
        )
    try:
        loaded = manager.load(asked.name)["tasks"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(f"{asked} cannot be loaded: {type(error).__name__}: {error}") from error
    if list(loaded) != [asked.name]:
        raise ConfigError(
            f"{asked} is a group; name its tasks, such as {', '.join(list(loaded)[:3])}"
        )
    return loaded[asked.name]


def _refuse_unfit(asked: HarnessTask, task: Task) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise ConfigError(
            f"{asked} is a task of {task.OUTPUT_TYPE}, and a study measures how texts are "
            "generated; take a task of generate_until, or run this one with `starr-engine lm-eval`"
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"{asked} runs the programs that a model writes, and a study runs none; run it with "
            "`starr-engine lm-eval --confirm_run_unsafe_code`"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"{asked} shows pictures or sounds, which these models do not take")
    if (repeats := task.config.repeats) and repeats > 1:
        raise ConfigError(
            f"{asked} asks each problem {repeats} times; a study asks once for each of its seeds"
        )


def _chat_template(tokenizer: Tokenizer) -> Callable[..., str]:
    def template(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return tokenizer.chat_text(history, continues_last=not add_generation_prompt)

    return template


def _metric(asked: HarnessTask, task: Task) -> str:
    known = list(task.aggregation())
    if asked.metric and asked.metric not in known:
        raise ConfigError(f"{asked} has no metric {asked.metric!r}; it has {', '.join(known)}")
    return asked.metric or str(known[0])


def _filter(asked: HarnessTask, task: Task) -> str:
    known = [each.name for each in task._filters]
    if asked.filter and asked.filter not in known:
        raise ConfigError(f"{asked} has no filter {asked.filter!r}; it has {', '.join(known)}")
    return asked.filter or str(known[0])


def _verdict(asked: HarnessTask, task: Task, instance: Any, chosen: str, metric: str) -> bool:
    found = task.process_results(instance.doc, [instance.filtered_resps[chosen]])
    value = found.get(metric)
    if value not in (0, 1):
        raise ConfigError(
            f"{asked}: {metric} of a problem is {value!r}, neither 0 nor 1, and a study counts "
            f"solved problems; name another metric: {', '.join(found)}"
        )
    return bool(value)
