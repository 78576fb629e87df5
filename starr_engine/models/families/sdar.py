"""SDAR: a Qwen3 transformer whose rows see all blocks up to their own, in the published names.

Letters: T rows of the step, M rows with logits, N query heads, K key/value heads, D head size.

Source:
    "SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation",
    arXiv 2510.06303; names and switches as in SDAR-1.7B, 4B and 8B. Differs from the published
    code in that it runs on flat rows with explicit positions and leaves attention, its mask
    included, to the caller; and in that norms round before the weight is applied, as Qwen3's do,
    where the published kernel rounds once after it, which shows only below float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.linear import Embedding, Linear
from starr_engine.layers.mlp import swiglu
from starr_engine.layers.norm import RMSNorm
from starr_engine.layers.rotary import RotaryEmbedding, Rotation
from starr_engine.layers.transformer_layer import TransformerLayer, split_heads
from starr_engine.models.base import DiffusionModel
from starr_engine.models.families.sdar_config import ARCHITECTURE, SDARConfig
from starr_engine.models.loading.config_files import ConfigFiles

HEAD_WEIGHT = "lm_head.weight"
EMBEDDING_WEIGHT = "model.embed_tokens.weight"


class _Attention(nn.Module):
    """Parameters of attention under their published names."""

    def __init__(self, config: SDARConfig) -> None:
        super().__init__()
        spec, bias = config.spec, config.attention_bias
        query_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q_proj = Linear(spec.hidden_size, query_size, bias=bias)
        self.k_proj = Linear(spec.hidden_size, kv_size, bias=bias)
        self.v_proj = Linear(spec.hidden_size, kv_size, bias=bias)
        self.o_proj = Linear(query_size, spec.hidden_size, bias=bias)
        self.q_norm = RMSNorm(spec.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(spec.head_dim, config.rms_norm_eps)


class _FeedForward(nn.Module):
    """Parameters of the feed-forward part under their published names."""

    def __init__(self, config: SDARConfig) -> None:
        super().__init__()
        hidden, inner = config.spec.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, inner, bias=False)
        self.up_proj = Linear(hidden, inner, bias=False)
        self.down_proj = Linear(inner, hidden, bias=False)


class SDARLayer(TransformerLayer):
    """RMS norm and attention with a norm of every query and key, RMS norm and SwiGLU."""

    def __init__(self, config: SDARConfig) -> None:
        super().__init__()
        self.head_dim = config.spec.head_dim
        self.input_layernorm = RMSNorm(config.spec.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = RMSNorm(config.spec.hidden_size, config.rms_norm_eps)
        self.mlp = _FeedForward(config)

    def normed(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.input_layernorm(rows)
        return out

    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """See the base class."""
        part = self.self_attn
        query = part.q_norm(split_heads(part.q_proj(normed), self.head_dim))
        key = part.k_norm(split_heads(part.k_proj(normed), self.head_dim))
        return rotation.apply(query), rotation.apply(key)

    def value(self, normed: Tensor) -> Tensor:
        """See the base class."""
        return split_heads(self.self_attn.v_proj(normed), self.head_dim)

    def attention_output(self, mixed: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.self_attn.o_proj(mixed.flatten(1))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """See the base class."""
        normed = self.post_attention_layernorm(rows)
        inner = swiglu(self.mlp.gate_proj(normed), self.mlp.up_proj(normed))
        out: Tensor = self.mlp.down_proj(inner)
        return out


class _Body(nn.Module):
    """The level that puts ``model.`` before every name but the head's."""

    def __init__(self, config: SDARConfig) -> None:
        super().__init__()
        spec = config.spec
        self.embed_tokens = Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(SDARLayer(config) for _ in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, config.rms_norm_eps)


class SDARModel(DiffusionModel):
    """The dense SDAR checkpoints and models of their format; the mixtures of experts are not."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    lm_head: Linear | None
    """Output head; None if the embedding serves as one."""

    def __init__(self, config: SDARConfig) -> None:
        super().__init__()
        spec = config.spec
        self.spec = spec
        self.model = _Body(config)
        self.lm_head = (
            None if config.tied_head else Linear(spec.hidden_size, spec.vocab_size, bias=False)
        )
        # As published: angles in float32, heads turned in their own dtype.
        self.rotary = RotaryEmbedding(
            spec.head_dim, spec.max_model_len, config.rope_theta, full_precision=False
        )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> SDARModel:
        """See the base class; parameters are on the ``meta`` device."""
        parsed = SDARConfig.read(files)
        with torch.device("meta"):
            return cls(parsed)

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """A tied head that a checkpoint stores all the same."""
        return {HEAD_WEIGHT: EMBEDDING_WEIGHT} if self.lm_head is None else {}

    @property
    def layers(self) -> Sequence[TransformerLayer]:
        """See the base class."""
        return cast(Sequence[TransformerLayer], self.model.layers)

    def embed(self, input_ids: Tensor) -> Tensor:
        """See the base class."""
        rows: Tensor = self.model.embed_tokens(input_ids)
        return rows

    def rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """See the base class."""
        rotation: Rotation = self.rotary(positions, dtype)
        return rotation

    def final_norm(self, rows: Tensor) -> Tensor:
        """See the base class."""
        normed: Tensor = self.model.norm(rows)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """See the base class."""
        if self.lm_head is None:
            return functional.linear(hidden, self.model.embed_tokens.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits
