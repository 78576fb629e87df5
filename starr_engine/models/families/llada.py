"""LLaDA: a Llama-like transformer without a causal mask, in the published checkpoint's names.

Letters: T rows of the step, M rows with logits, N query heads, K key/value heads, D head size.

Source:
    "Large Language Diffusion Models", arXiv 2502.09992; published names and switches as in
    LLaDA-8B and LLaDA-1.5. Differs from the published code in that it runs on flat rows with
    explicit positions and leaves attention, and so the KV cache, to the caller.
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
from starr_engine.layers.ranks import Ranks, Splits
from starr_engine.layers.rotary import RotaryEmbedding, Rotation
from starr_engine.layers.transformer_layer import TransformerLayer, head_rows, split_heads
from starr_engine.models.base import DiffusionModel, PublishedDecoding
from starr_engine.models.families.llada_config import ARCHITECTURE, LLaDAConfig
from starr_engine.models.loading.config_files import ConfigFiles

HEAD_WEIGHT = "model.transformer.ff_out.weight"
EMBEDDING_WEIGHT = "model.transformer.wte.weight"


class LLaDABlock(TransformerLayer):
    """RMS norm and attention, RMS norm and SwiGLU."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        spec = config.spec
        hidden, kv_size = spec.hidden_size, spec.num_kv_heads * spec.head_dim
        self.head_dim = spec.head_dim
        self.attn_norm = RMSNorm(hidden, config.rms_norm_eps, bias=config.norm_bias)
        self.q_proj = Linear(hidden, hidden, bias=config.qkv_bias)
        self.k_proj = Linear(hidden, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(hidden, kv_size, bias=config.qkv_bias)
        self.attn_out = Linear(hidden, hidden, bias=config.linear_bias)
        self.ff_norm = RMSNorm(hidden, config.rms_norm_eps, bias=config.norm_bias)
        self.ff_proj = Linear(hidden, config.mlp_hidden_size, bias=config.linear_bias)
        self.up_proj = Linear(hidden, config.mlp_hidden_size, bias=config.linear_bias)
        self.ff_out = Linear(config.mlp_hidden_size, hidden, bias=config.linear_bias)

    def normed(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.attn_norm(rows)
        return out

    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """See the base class."""
        query = rotation.apply(split_heads(self.q_proj(normed), self.head_dim))
        key = rotation.apply(split_heads(self.k_proj(normed), self.head_dim))
        return query, key

    def value(self, normed: Tensor) -> Tensor:
        """See the base class."""
        return split_heads(self.v_proj(normed), self.head_dim)

    def attention_output(self, mixed: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.attn_out(mixed.flatten(1))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """See the base class."""
        normed = self.ff_norm(rows)
        out: Tensor = self.ff_out(swiglu(self.ff_proj(normed), self.up_proj(normed)))
        return out

    def split(self, ranks: Ranks) -> None:
        """See the base class."""
        queries = head_rows(ranks, self.q_proj.weight, self.head_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.keep_outputs(head_rows(ranks, projection.weight, self.head_dim))
        self.attn_out.keep_inputs(queries, ranks)
        inner = ranks.share(len(self.ff_proj.weight))
        self.ff_proj.keep_outputs(inner)
        self.up_proj.keep_outputs(inner)
        self.ff_out.keep_inputs(inner, ranks)


class _Transformer(nn.Module):
    """Holds the parameters under their published names."""

    ff_out: Linear | None
    """Output head; None if the embedding serves as one."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        spec = config.spec
        self.wte = Embedding(spec.vocab_size, spec.hidden_size)
        self.blocks = nn.ModuleList(LLaDABlock(config) for _ in range(spec.num_layers))
        self.ln_f = RMSNorm(spec.hidden_size, config.rms_norm_eps, bias=config.norm_bias)
        self.ff_out = (
            None
            if config.weight_tying
            else Linear(spec.hidden_size, spec.vocab_size, bias=config.linear_bias)
        )


class _Body(nn.Module):
    """The level that puts ``model.`` before every name."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.transformer = _Transformer(config)


class LLaDAModel(DiffusionModel):
    """LLaDA-8B, LLaDA-1.5 and models of their format."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={"remasking": "low_confidence", "block_length": 32},
        source="generate.py of LLaDA: as many steps as tokens",
    )

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.spec = config.spec
        self.model = _Body(config)
        self.rotary = RotaryEmbedding(
            config.spec.head_dim,
            config.spec.max_model_len,
            config.rope_theta,
            full_precision=config.rope_full_precision,
        )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> LLaDAModel:
        """See the base class; parameters are on the ``meta`` device."""
        parsed = LLaDAConfig.read(files.config)
        with torch.device("meta"):
            return cls(parsed)

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """A tied head that a checkpoint stores all the same."""
        return {HEAD_WEIGHT: EMBEDDING_WEIGHT} if self.model.transformer.ff_out is None else {}

    @property
    def layers(self) -> Sequence[TransformerLayer]:
        """See the base class."""
        return cast(Sequence[TransformerLayer], self.model.transformer.blocks)

    @property
    def vocabulary_tables(self) -> Sequence[Splits]:
        """See the base class."""
        parts = self.model.transformer
        return (parts.wte,) if parts.ff_out is None else (parts.wte, parts.ff_out)

    def embed(self, input_ids: Tensor) -> Tensor:
        """See the base class."""
        rows: Tensor = self.model.transformer.wte(input_ids)
        return rows

    def rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """See the base class."""
        rotation: Rotation = self.rotary(positions, dtype)
        return rotation

    def final_norm(self, rows: Tensor) -> Tensor:
        """See the base class."""
        normed: Tensor = self.model.transformer.ln_f(rows)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """See the base class."""
        head = self.model.transformer.ff_out
        if head is None:
            return functional.linear(hidden, self.model.transformer.wte.weight)
        logits: Tensor = head(hidden)
        return logits
