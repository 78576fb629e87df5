"""Parts of an engine that tests and measurements switch; none changes what is generated."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.engine.graphs.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What users have no reason to set."""

    recorder: Recorder | None = None
    """Records steps in place of CUDA graphs, on any device; None is CUDA graphs on CUDA."""
