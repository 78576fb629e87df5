"""Parts of an engine that tests and measurements switch; none changes what is generated."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.engine.graphs.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What users have no reason to set."""

    recorder: Recorder | None = None
    """Records steps in place of CUDA graphs, on any device; None is CUDA graphs on CUDA."""

    fused_statistics: bool = True
    """Whether logits become candidates and confidences in the compiled op; else in PyTorch, in
    float32, which reads the logits several times."""

    head_on_scored_rows: bool = True
    """Whether the output head is applied to the rows that a policy scores, which are those still
    masked for most; else to all rows of the step."""

    stacked_states: bool = True
    """Whether what policies remember of rows stays in one tensor while the rows stay together;
    else it is cut into rows and joined at every step."""

    compile_backend: str | None = None
    """Backend of ``torch.compile`` for the feed-forward part of every layer; None compiles none."""

    overlap: bool | None = None
    """Whether an engine's thread tells what a step has changed while the next one runs; None does
    so on CUDA, where a step runs on without the host."""
