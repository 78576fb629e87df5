"""A recommendation as JSON's values: for other programs, and as a policy file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starr_engine.study.policy_file import policy_record
from starr_engine.study.recommend.choose import Recommendation
from starr_engine.study.recommend.commands import commands_for
from starr_engine.study.recommend.goal import Verdict


def record_of(found: Recommendation) -> dict[str, Any]:
    """All that the text says, and more digits of it."""
    cell = found.search.cell(found.search.default, found.num_prompts)
    goal = found.search.goal
    chosen = found.chosen
    return {
        "model": cell.model,
        "prompts": {
            "source": cell.task.file or cell.task.name,
            "scorer": cell.task.scorer,
            "count": found.num_prompts,
            "mean_tokens": found.judged.base.prompt_tokens,
        },
        "decoding": {
            "max_tokens": cell.max_tokens,
            "block_length": cell.block_length,
            "batch_size": cell.batch_size,
            "seed": cell.seed,
            "engine": dict(cell.engine),
            "sampling": dict(cell.sampling),
        },
        "objective": goal.objective,
        "limit": {
            "min_accuracy": goal.least_accuracy,
            "max_loss": goal.most_loss,
            "sure": goal.needs_certainty,
        },
        "interval_normal_quantile": found.judged.z,
        "recommended": None if chosen is None else verdict_record(chosen),
        "as_fast": [str(each.candidate) for each in found.as_fast],
        "nearest": None if found.nearest is None else verdict_record(found.nearest),
        "default": None if found.default is None else str(found.default.candidate),
        "baseline": {
            "accuracy": found.judged.base.accuracy,
            "accuracy_interval": found.judged.base.accuracy_interval,
            "nfe": found.judged.base.nfe,
            "rows": found.judged.base.rows,
            **asdict(found.judged.base.timing),
        },
        "finalists": [verdict_record(each) for each in found.judged.verdicts],
        "not_run": found.judged.errors,
        "commands": {}
        if chosen is None
        else {name: shlex.join(words)
              for name, words in commands_for(chosen.cell, goal.objective).items()},
        "environment": found.environment,
    }  # fmt: skip


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """One setting with its evidence."""
    measured, compared = verdict.measured, verdict.compared
    return {
        "setting": str(verdict.candidate),
        "cache": verdict.candidate.cache.name,
        "cache_args": dict(verdict.candidate.cache.args),
        "remasking": verdict.candidate.remasking.name,
        "remasking_args": dict(verdict.candidate.remasking.args),
        "label": measured.label,
        "accuracy": measured.accuracy,
        "accuracy_interval": measured.accuracy_interval,
        "loss": verdict.loss,
        "loss_interval": verdict.loss_interval,
        "gained": compared.gained,
        "lost": compared.lost,
        "same_outputs": compared.same_outputs,
        "standing": verdict.margin.standing,
        "faster": verdict.faster,
        "nfe": measured.nfe,
        "fewer_forwards": compared.fewer_forwards,
        "fewer_forwards_interval": compared.fewer_forwards_interval,
        "rows": measured.rows,
        "batch_size": verdict.cell.batch_size,
        **asdict(measured.timing),
    }


def policy_file(found: Recommendation) -> Mapping[str, Any] | None:
    """The remasking policy as ``--remasking NAME@FILE`` reads it; None without a recommendation."""
    if found.chosen is None:
        return None
    remasking = found.chosen.candidate.remasking
    return policy_record(remasking.name, remasking.args, {"recommendation": record_of(found)})
