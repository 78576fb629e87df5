"""From what a user calls a model to the folder that holds it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError

_ASSETS: Final = Path(__file__).resolve().parent.parent.parent / "assets"
_SMALL_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt")
"""Configuration and tokenizer."""

_WEIGHTS: Final = ("*.safetensors",)
"""Never a format that can run code when it is read."""


def shipped_models() -> list[str]:
    """Names of the models inside the package, sorted."""
    return sorted(path.parent.name for path in _ASSETS.glob("*/config.json"))


def resolve_model(model: str, revision: str | None = None) -> Path:
    """Find a model's folder; of a hub id, fetch everything but the weights.

    What is small comes first, so that a model that cannot be used costs no download of gigabytes:
    see :func:`fetch_weights`.

    Args:
        model: A shipped model's name; else a local folder; else ``owner/name`` on the hub.
        revision: Branch, tag or commit of a hub id; None takes the hub's main branch.

    Returns:
        A folder. Its content is not checked here.

    Raises:
        ConfigError: If ``model`` is none of these; lists the shipped models and says why the hub
            did not help.
    """
    local = _local_folder(model)
    if local is None:
        return _download(model, revision, _SMALL_FILES)
    if revision is not None:
        raise ConfigError(
            f"revision={revision!r} is for models of the hub, and {model!r} is {local}"
        )
    return local


def fetch_weights(model: str, revision: str | None = None) -> None:
    """Complete the folder of :func:`resolve_model` by the weights; nothing to do for local ones.

    Raises:
        ConfigError: If the hub does not give them; says why.
    """
    if _local_folder(model) is None:
        _download(model, revision, (*_SMALL_FILES, *_WEIGHTS))


def _local_folder(model: str) -> Path | None:
    if model in shipped_models():
        return _ASSETS / model
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def _download(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    looks_local = model.startswith((".", "~", os.sep))
    if looks_local or model.count("/") != 1 or not all(model.split("/")):
        raise ConfigError(_unknown(model, "hub ids have the form owner/name"))
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        reason = "huggingface_hub is not installed; pip install huggingface_hub"
        raise ConfigError(_unknown(model, reason)) from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{model} is on the hub, but its owner asks for consent; give it on the model's page, "
            "then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"{model} has no revision {revision!r} on the hub; name a branch, tag or commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            _unknown(model, "the hub has no such model, or it is private; then `hf auth login`")
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise ConfigError(
            f"{model}{at} is not in the hub's local cache, and the hub cannot be reached; check "
            "the network, or fetch the model elsewhere and name its folder"
        ) from error
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(_unknown(model, reason)) from error


def _unknown(model: str, reason: str) -> str:
    shipped = shipped_models()
    close = difflib.get_close_matches(model, shipped, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown model {model!r}; {hint}it is not shipped ({', '.join(shipped) or 'none are'}), "
        f"not a folder, and not reachable on the hub ({reason})"
    )
