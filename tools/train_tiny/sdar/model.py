"""The SDAR architecture (that of Qwen3) in plain dense PyTorch, for training only.

Parameters carry the published names, so that a checkpoint is a copy of the state dict. What
a row may attend to is an argument: the same model runs over a sequence, over the noisy and the
clean copy of one in training, and over one block after a cache in decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

from tools.train_tiny.llada.model import RMSNorm, rotate

KeyValue = tuple[Tensor, Tensor]
"""Rotated keys and values of one layer, each [batch, heads, length, head_dim]."""


@dataclass(frozen=True)
class SdarConfig:
    """Sizes of the model; names as in the published configuration."""

    vocab_size: int
    hidden_size: int = 192
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    head_dim: int = 32
    num_hidden_layers: int = 6
    intermediate_size: int = 384
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


class Attention(nn.Module):
    """Attention with a norm of each head's queries and keys, and no biases."""

    def __init__(self, config: SdarConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], hidden: Tensor | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """Map ``x`` [batch, length, width]; see ``TinySDAR.hidden`` for the others."""
        shape = (*x.shape[:2], -1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2), *turns)
        key = rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2), *turns)
        value = self.v_proj(x).view(shape).transpose(1, 2)
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        wide_key, wide_value = (
            t if self.groups == 1 else t.repeat_interleave(self.groups, dim=1) for t in (key, value)
        )
        # spelled out: for short sequences on a CPU it is faster than torch's fused attention
        scores = (query * self.head_dim**-0.5) @ wide_key.transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        mixed = torch.softmax(scores.float(), dim=-1).to(value.dtype) @ wide_value
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), (key, value)


class FeedForward(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, config: SdarConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [batch, length, width]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: SdarConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], hidden: Tensor | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """Map ``x`` [batch, length, width]; see ``TinySDAR.hidden`` for the others."""
        mixed, key_value = self.self_attn(self.input_layernorm(x), turns, hidden, past)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), key_value


class _Body(nn.Module):
    """Everything but the head: the published names start with ``model.``."""

    def __init__(self, config: SdarConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class TinySDAR(nn.Module):
    """Block-causal mask predictor with tied input and output embeddings."""

    def __init__(self, config: SdarConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)

    def states(
        self,
        ids: Tensor,
        positions: Tensor,
        hidden: Tensor | None,
        past: list[KeyValue] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run the layers.

        Args:
            ids: [batch, length].
            positions: [length]; need neither start at 0 nor be distinct.
            hidden: Bool [length, past length + length]: what a row does not attend to, or
                None if it attends to everything.
            past: Keys and values of each layer that come before these rows.

        Returns:
            Normed last states [batch, length, width], and the keys and values of each layer,
            those of ``past`` included.
        """
        x = self.model.embed_tokens(ids)
        turns = _turns(positions, self.config)
        kept = []
        for index, layer in enumerate(self.model.layers):
            x, key_value = layer(x, turns, hidden, past[index] if past else None)
            kept.append(key_value)
        return self.model.norm(x), kept

    def logits(self, states: Tensor) -> Tensor:
        """Return scores over the vocabulary for states [..., width]."""
        return F.linear(states, self.model.embed_tokens.weight)


def _turns(positions: Tensor, config: SdarConfig) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [length, head_dim] in float32, halves repeated."""
    half = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions.float()[:, None] * config.rope_theta ** -(half / config.head_dim)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()
