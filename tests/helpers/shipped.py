"""Which shipped models belong to a family."""

from __future__ import annotations

import json

from starr_engine.models.loading.locate import resolve_model, shipped_models


def shipped_of(architecture: str) -> list[str]:
    """Names of the shipped models of an architecture, sorted."""
    return [name for name in shipped_models() if architecture in _architectures(name)]


def _architectures(name: str) -> list[str]:
    config = json.loads((resolve_model(name) / "config.json").read_text())
    listed: list[str] = config["architectures"]
    return listed
