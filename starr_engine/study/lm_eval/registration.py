"""How ``lm_eval``, which looks for no plugins by itself, learns of the model ``starr_engine``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

from starr_engine.errors import ConfigError

MODEL_NAME: Final = "starr_engine"
"""As ``lm_eval --model`` takes it."""

_TARGET: Final = "starr_engine.study.lm_eval.model:StarrEngineLM"


def register() -> None:
    """Put the model on the harness's list; harmless if it is there. It is imported when asked for.

    Raises:
        ConfigError: If ``lm_eval`` is not installed.
    """
    # The harness fills an empty list by itself, but not one that has an entry.
    harness_module("lm_eval.models")
    registry = harness_module("lm_eval.api.registry").model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=_TARGET)


def harness_module(name: str) -> Any:
    """A module of ``lm_eval``.

    Raises:
        ConfigError: If it, or something it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"lm-evaluation-harness cannot be used ({error}): pip install 'starr-engine[lm-eval]'"
        ) from error


def run_harness(words: Sequence[str]) -> None:
    """The harness's own command, which then knows the model.

    Args:
        words: Its arguments, such as ``["run", "--model", "starr_engine", ...]``.

    Raises:
        ConfigError: If ``lm_eval`` is not installed.
        SystemExit: As the harness ends itself, on ``--help`` and wrong arguments.
    """
    register()
    command = harness_module("lm_eval.__main__")
    before = sys.argv
    # It reads no other list of arguments.
    sys.argv = ["lm-eval", *words]
    try:
        command.cli_evaluate()
    finally:
        sys.argv = before
