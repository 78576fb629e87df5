"""LLaDA2.0 and 2.1: a mixture of experts whose rows see all blocks up to their own.

Letters: T rows of the step, M rows with logits, N query heads, K key/value heads, D head size.

Source:
    "LLaDA2.0: Scaling Up Diffusion Language Models to 100B", 2025, and "LLaDA2.1: Speeding Up Text
    Diffusion via Token Editing", 2026; names and switches as in the mini and flash models. Differs
    from the published code in that it runs on flat rows with explicit positions and leaves
    attention, its mask included, to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.experts import Experts
from starr_engine.layers.linear import Embedding, Linear
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.layers.norm import RMSNorm
from starr_engine.layers.ranks import Ranks, Splits
from starr_engine.layers.rotary import RotaryEmbedding, Rotation
from starr_engine.layers.routing import GroupLimitedRouter
from starr_engine.layers.transformer_layer import TransformerLayer, split_heads
from starr_engine.models.base import DiffusionModel, PublishedDecoding
from starr_engine.models.families.llada2_config import ARCHITECTURE, LLaDA2Config, read_llada2
from starr_engine.models.loading.config_files import ConfigFiles

HEAD_WEIGHT: Final = "lm_head.weight"
EMBEDDING_WEIGHT: Final = "model.word_embeddings.weight"


class _Attention(nn.Module):
    """Parameters of attention under their published names.

    ``query_key_value`` makes all queries, then all keys, then all values of a row.
    """

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        decoder, spec = config.decoder, config.decoder.spec
        self.query_size = spec.num_heads * spec.head_dim
        self.kv_size = spec.num_kv_heads * spec.head_dim
        self.query_key_value = Linear(
            spec.hidden_size, self.query_size + 2 * self.kv_size, bias=decoder.qkv_bias
        )
        self.dense = Linear(self.query_size, spec.hidden_size, bias=decoder.output_bias)
        eps = decoder.rms_norm_eps
        self.query_layernorm = RMSNorm(spec.head_dim, eps) if decoder.qk_norm else None
        self.key_layernorm = RMSNorm(spec.head_dim, eps) if decoder.qk_norm else None

    def part(self, rows: Tensor, start: int, size: int) -> Tensor:
        """Components ``start`` to ``start + size`` of what ``query_key_value`` makes of rows."""
        fused = self.query_key_value
        bias = None if fused.bias is None else fused.bias[start : start + size]
        return functional.linear(rows, fused.weight[start : start + size], bias)

    def split(self, ranks: Ranks, head_dim: int) -> None:
        """Keep a rank's queries, keys and values, which lie in three places of the matrix."""
        offsets = (0, self.query_size, self.query_size + self.kv_size)
        sizes = (self.query_size, self.kv_size, self.kv_size)
        kept = []
        for offset, size in zip(offsets, sizes, strict=True):
            first, stop = ranks.heads(size // head_dim)
            kept.append((offset + first * head_dim, offset + stop * head_dim))
        self.query_key_value.keep_outputs(*kept)
        self.dense.keep_inputs(kept[0], ranks)
        self.query_size, self.kv_size = (stop - start for start, stop in kept[:2])


class LLaDA2Layer(TransformerLayer):
    """RMS norm and attention, RMS norm and a feed-forward part, dense or mixed."""

    def __init__(self, config: LLaDA2Config, index: int) -> None:
        super().__init__()
        spec, eps = config.decoder.spec, config.decoder.rms_norm_eps
        self.head_dim = spec.head_dim
        self.input_layernorm = RMSNorm(spec.hidden_size, eps)
        self.attention = _Attention(config)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, eps)
        self.mlp: nn.Module = (
            GatedFeedForward(spec.hidden_size, config.decoder.intermediate_size)
            if index < config.num_dense_layers
            else _mixture(config)
        )

    def normed(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.input_layernorm(rows)
        return out

    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """See the base class."""
        part = self.attention
        made = part.part(normed, 0, part.query_size + part.kv_size)
        heads = split_heads(made, self.head_dim)
        num_queries = part.query_size // self.head_dim
        query, key = heads[:, :num_queries], heads[:, num_queries:]
        if part.query_layernorm is not None and part.key_layernorm is not None:
            query, key = part.query_layernorm(query), part.key_layernorm(key)
        return rotation.apply(query), rotation.apply(key)

    def value(self, normed: Tensor) -> Tensor:
        """See the base class."""
        part = self.attention
        made = part.part(normed, part.query_size + part.kv_size, part.kv_size)
        return split_heads(made, self.head_dim)

    def attention_output(self, mixed: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.attention.dense(mixed.flatten(1))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.mlp(self.post_attention_layernorm(rows))
        return out

    def split(self, ranks: Ranks) -> None:
        """See the base class."""
        self.attention.split(ranks, self.head_dim)
        cast(Splits, self.mlp).split(ranks)


def _mixture(config: LLaDA2Config) -> MoEFeedForward:
    size = config.decoder.spec.hidden_size
    return MoEFeedForward(
        GroupLimitedRouter(
            size,
            config.num_experts,
            config.num_experts_chosen,
            num_groups=config.num_groups,
            num_groups_chosen=config.num_groups_chosen,
            # The published code leaves the weight of a single expert as it is.
            renormalise=config.num_experts_chosen > 1,
            scale=config.routing_scale,
        ),
        Experts(config.num_experts, size, config.expert_size),
        GatedFeedForward(size, config.shared_size),
    )


class _Body(nn.Module):
    """The level that puts ``model.`` before every name but the head's."""

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        spec = config.decoder.spec
        self.word_embeddings = Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(LLaDA2Layer(config, index) for index in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, config.decoder.rms_norm_eps)


class LLaDA2Model(DiffusionModel):
    """LLaDA2.0 and 2.1, mini and flash, and models of their format; not LLaDA2.2."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={
            "remasking": "token_edit",
            "remasking_args": {"threshold": 0.95, "edit_threshold": None},
        },
        source="generate of LLaDA2.0; 2.1 edits, see docs/policies.md",
    )

    lm_head: Linear | None
    """Output head; None if the embedding serves as one."""

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        spec = config.decoder.spec
        self.spec = spec
        self.model = _Body(config)
        self.lm_head = (
            None
            if config.decoder.tied_head
            else Linear(spec.hidden_size, spec.vocab_size, bias=False)
        )
        self.rotary = RotaryEmbedding(
            config.num_turned, spec.max_model_len, config.decoder.rope_theta, full_precision=False
        )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> LLaDA2Model:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_llada2(files)
        with torch.device("meta"):
            return cls(config)

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
        return (self.model.word_embeddings, *head)

    def embed(self, input_ids: Tensor) -> Tensor:
        """See the base class."""
        rows: Tensor = self.model.word_embeddings(input_ids)
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
            return functional.linear(hidden, self.model.word_embeddings.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits
