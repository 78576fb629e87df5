"""The transformer that most families share, under the names that most checkpoints use.

Letters: T rows of the step, M rows with logits, N query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.linear import Embedding, Linear
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.norm import RMSNorm
from starr_engine.layers.ranks import Ranks, Splits
from starr_engine.layers.rotary import RotaryEmbedding, Rotation
from starr_engine.layers.transformer_layer import TransformerLayer, head_rows, split_heads
from starr_engine.models.base import DiffusionModel
from starr_engine.models.decoder_config import DecoderConfig

HEAD_WEIGHT: Final = "lm_head.weight"
EMBEDDING_WEIGHT: Final = "model.embed_tokens.weight"

MakeFeedForward = Callable[[int], nn.Module]
"""Layer index -> the module ``mlp`` of that layer: normed rows [T, hidden_size] -> same shape."""


class _Attention(nn.Module):
    """Parameters of attention under their published names."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        spec = config.spec
        query_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q_proj = Linear(spec.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = Linear(spec.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(spec.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(query_size, spec.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(spec.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(spec.head_dim, config.rms_norm_eps) if config.qk_norm else None


class DecoderLayer(TransformerLayer):
    """RMS norm and attention, RMS norm and a feed-forward part."""

    def __init__(self, config: DecoderConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        spec = config.spec
        self.head_dim = spec.head_dim
        self.input_layernorm = RMSNorm(spec.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, config.rms_norm_eps)
        self.mlp = feed_forward

    def normed(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.input_layernorm(rows)
        return out

    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """See the base class."""
        part = self.self_attn
        query = split_heads(part.q_proj(normed), self.head_dim)
        key = split_heads(part.k_proj(normed), self.head_dim)
        if part.q_norm is not None and part.k_norm is not None:
            query, key = part.q_norm(query), part.k_norm(key)
        return rotation.turn(query, key)

    def value(self, normed: Tensor) -> Tensor:
        """See the base class."""
        return split_heads(self.self_attn.v_proj(normed), self.head_dim)

    def attention_output(self, mixed: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.self_attn.o_proj(mixed.flatten(1))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.mlp(self.post_attention_layernorm(rows))
        return out

    def split(self, ranks: Ranks) -> None:
        """See the base class."""
        if not isinstance(self.mlp, Splits):
            super().split(ranks)
        part = self.self_attn
        queries = head_rows(ranks, part.q_proj.weight, self.head_dim)
        for projection in (part.q_proj, part.k_proj, part.v_proj):
            projection.keep_outputs(head_rows(ranks, projection.weight, self.head_dim))
        part.o_proj.keep_inputs(queries, ranks)
        cast(Splits, self.mlp).split(ranks)


class _Body(nn.Module):
    """The level that puts ``model.`` before every name but the head's."""

    def __init__(self, config: DecoderConfig, make_feed_forward: MakeFeedForward) -> None:
        super().__init__()
        spec = config.spec
        self.embed_tokens = Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, make_feed_forward(index)) for index in range(spec.num_layers)
        )
        self.norm = RMSNorm(spec.hidden_size, config.rms_norm_eps)


class DecoderModel(DiffusionModel):
    """Base of the families whose checkpoints have the layout of Llama and Qwen.

    Differs from the published modelling files in that it runs on flat rows with explicit positions
    and leaves attention, its mask included, to the caller; and in that norms round before the
    weight is applied, which shows only below float32 where a published kernel rounds after it.

    Args:
        config: Of the checkpoint.
        make_feed_forward: Of every layer; None makes the dense gated one.
        rotary: Table of angles; None makes the plain one of ``rope_theta``, with angles in float32
            and heads turned in their own dtype, as the published files do.
    """

    lm_head: Linear | None
    """Output head; None if the embedding serves as one."""

    def __init__(
        self,
        config: DecoderConfig,
        make_feed_forward: MakeFeedForward | None = None,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__()
        spec = config.spec
        self.spec = spec

        def make_dense(layer_index: int) -> nn.Module:
            del layer_index
            return GatedFeedForward(spec.hidden_size, config.intermediate_size)

        self.model = _Body(config, make_feed_forward or make_dense)
        self.lm_head = (
            None if config.tied_head else Linear(spec.hidden_size, spec.vocab_size, bias=False)
        )
        self.rotary = rotary or RotaryEmbedding(
            spec.head_dim, spec.max_model_len, config.rope_theta, full_precision=False
        )

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """A tied head that a checkpoint stores all the same."""
        return {HEAD_WEIGHT: EMBEDDING_WEIGHT} if self.lm_head is None else {}

    @property
    def layers(self) -> Sequence[TransformerLayer]:
        """See the base class."""
        return cast(Sequence[TransformerLayer], self.model.layers)

    @property
    def vocabulary_tables(self) -> Sequence[Splits]:
        """See the base class."""
        head = () if self.lm_head is None else (self.lm_head,)
        return (self.model.embed_tokens, *head)

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
