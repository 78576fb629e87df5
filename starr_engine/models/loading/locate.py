"""From what a user calls a model to the folder that holds it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError

_ASSETS: Final = Path(__file__).resolve().parent.parent.parent / "assets"
_HUB_PATTERNS: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt")
"""Configuration, weights and tokenizer; never a format that can run code when it is read."""


def shipped_models() -> list[str]:
    """Names of the models inside the package, sorted."""
    return sorted(path.parent.name for path in _ASSETS.glob("*/config.json"))


def resolve_model(model: str) -> Path:
    """Find a model's folder; downloads it if it is a hub id.

    Args:
        model: A shipped model's name; else a local folder; else ``owner/name`` on the hub.

    Returns:
        A folder. Its content is not checked here.

    Raises:
        ConfigError: If ``model`` is none of these; lists the shipped models and says why the hub
            did not help.
    """
    shipped = shipped_models()
    if model in shipped:
        return _ASSETS / model
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    return _download(model, shipped)


def _download(model: str, shipped: list[str]) -> Path:
    looks_local = model.startswith((".", "~", os.sep))
    if looks_local or model.count("/") != 1 or not all(model.split("/")):
        raise ConfigError(_unknown(model, shipped, "hub ids have the form owner/name"))
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        reason = "huggingface_hub is not installed; pip install huggingface_hub"
        raise ConfigError(_unknown(model, shipped, reason)) from error
    try:
        return Path(snapshot_download(model, allow_patterns=list(_HUB_PATTERNS)))
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(_unknown(model, shipped, reason)) from error


def _unknown(model: str, shipped: list[str], reason: str) -> str:
    close = difflib.get_close_matches(model, shipped, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown model {model!r}; {hint}it is not shipped ({', '.join(shipped) or 'none are'}), "
        f"not a folder, and not reachable on the hub ({reason})"
    )
