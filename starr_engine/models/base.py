"""What a model is to the engine: rows in, hidden rows out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from starr_engine.layers.attention import LayerAttention
from starr_engine.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about a checkpoint that the engine needs, read from its own files."""

    architecture: str
    vocab_size: int
    """Rows of the embedding, and columns of the logits."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    """Longest canvas, prompt included."""

    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    attention_kind: Literal["bidirectional", "block_causal"]
    """Whether a row sees every row of its request, or those up to the end of its own block."""

    block_length: int | None = None
    """Of the attention mask; blocks are counted from position 0. None if bidirectional."""

    def __post_init__(self) -> None:
        assert (self.block_length is not None) == (self.attention_kind == "block_causal")


class DiffusionModel(nn.Module, ABC):
    """Base of all model families; runs on flat rows, so ragged batches cost no padding.

    Parameters carry the names of the published checkpoint, so that loading is a look-up.
    """

    architectures: ClassVar[tuple[str, ...]]
    """Values of ``architectures`` in ``config.json`` that this class loads."""

    spec: ModelSpec

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiffusionModel:
        """Build the model from the checkpoint's ``config.json``, parameters on ``meta``.

        Raises:
            ConfigError: If a field is missing or has a value this family does not support.
        """

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """Names that a checkpoint may hold a second time -> the parameter they must equal."""
        return {}

    @abstractmethod
    def forward(self, input_ids: Tensor, positions: Tensor, attention: LayerAttention) -> Tensor:
        """Hidden states after the final norm.

        Args:
            input_ids: [T] int64, masks included.
            positions: [T] int64, counted from 0 in each request.
            attention: Where rows of one request meet.

        Returns:
            [T, hidden_size].
        """

    @abstractmethod
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the given rows: [M, hidden_size] -> [M, vocab_size]."""


MODELS: Registry[DiffusionModel] = Registry("architecture")
MODELS.add("LLaDAModelLM", "starr_engine.models.llada:LLaDAModel")
