"""``starr-engine lm-eval``: the command of lm-evaluation-harness, which then knows the engine."""

from __future__ import annotations

from collections.abc import Sequence


def forward(words: Sequence[str]) -> None:
    """Hand everything behind the command's name on.

    Raises:
        ConfigError: If ``lm_eval`` is not installed.
        SystemExit: As the harness ends itself.
    """
    from starr_engine.study.lm_eval.registration import run_harness

    run_harness(words)
