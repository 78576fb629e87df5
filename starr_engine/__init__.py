"""starr_engine: an inference engine for diffusion language models.

Names are loaded on first use, so that importing the package needs torch alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starr_engine.async_llm import AsyncLLM
    from starr_engine.config import EngineConfig
    from starr_engine.errors import (
        CapacityError,
        ConfigError,
        EngineDeadError,
        RequestError,
        StarrError,
    )
    from starr_engine.llm import LLM
    from starr_engine.outputs import (
        BlockOutput,
        CacheDrift,
        FinishReason,
        ProvisionalOutput,
        RequestOutput,
        TokenLogprob,
    )
    from starr_engine.params import SamplingParams
    from starr_engine.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "BlockOutput",
    "CacheDrift",
    "CapacityError",
    "ConfigError",
    "EngineConfig",
    "EngineDeadError",
    "FinishReason",
    "ProvisionalOutput",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "StarrError",
    "TokenLogprob",
    "Trace",
]

_HOME = {
    "LLM": "llm",
    "AsyncLLM": "async_llm",
    "BlockOutput": "outputs",
    "CacheDrift": "outputs",
    "CapacityError": "errors",
    "ConfigError": "errors",
    "EngineConfig": "config",
    "EngineDeadError": "errors",
    "FinishReason": "outputs",
    "ProvisionalOutput": "outputs",
    "RequestError": "errors",
    "RequestOutput": "outputs",
    "SamplingParams": "params",
    "StarrError": "errors",
    "TokenLogprob": "outputs",
    "Trace": "trace",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
