"""The LLaDA architecture in plain dense PyTorch, for training only.

Parameters carry the published names, so that a checkpoint is a copy of the state dict. The
engine has its own implementation; this one is the short, obvious twin that makes weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

_EMBEDDING_STD: Final = 0.1
_OUTPUT_SCALE: Final = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; names as in the published configuration."""

    vocab_size: int
    d_model: int = 192
    n_heads: int = 6
    n_layers: int = 6
    mlp_hidden_size: int = 384
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with unit mean square over the last axis, times the weight."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, no biases, every position attends to every position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, hidden = config.d_model, config.mlp_hidden_size
        self.n_heads = config.n_heads
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.ff_norm = RMSNorm(d, config.rms_norm_eps)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ff_proj = nn.Linear(d, hidden, bias=False)
        self.up_proj = nn.Linear(d, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map ``x`` [batch, length, d_model]; ``cos`` and ``sin`` are [length, head_dim]."""
        batch, length, d = x.shape
        shape = (batch, length, self.n_heads, d // self.n_heads)
        normed = self.attn_norm(x)
        q, k, v = (
            proj(normed).view(shape).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        # spelled out: for short sequences in bfloat16 on a CPU, torch's fused attention is
        # several times slower than two matrix products
        scores = rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(-1, -2)
        mixed = torch.softmax(scores.float() * shape[-1] ** -0.5, dim=-1).to(v.dtype) @ v
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(batch, length, d))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))


class TinyLLaDA(nn.Module):
    """Mask predictor with tied input and output embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the normed last states [batch, length, d_model] for ``ids`` [batch, length]."""
        x = self.wte(ids)
        cos, sin = _rope(ids.shape[1], self.config, ids.device)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores over the vocabulary for states [..., d_model]."""
        return F.linear(hidden, self.wte.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [batch, length, vocab] for ``ids`` [batch, length]."""
        return self.logits(self.hidden(ids))


def initialise(model: TinyLLaDA, seed: int, mimetic: float) -> None:
    """Set all weights from a seed.

    Args:
        model: Changed in place.
        seed: Of a generator of its own.
        mimetic: Strength of the identity in each head's query-key product and in its
            value-output product. It lets a head match and copy tokens from the first step,
            which is the skill that small models otherwise find late; 0 turns it off.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.wte.weight.normal_(0, _EMBEDDING_STD, generator=generator)
        for block in model.blocks:
            assert isinstance(block, Block)
            for weight in block.parameters():
                if weight.dim() == 2:
                    weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
            # small outputs: the embeddings must not drown in noise on the way to the head
            block.ff_out.weight.mul_(_OUTPUT_SCALE)
            block.attn_out.weight.mul_(_OUTPUT_SCALE)
            query, key = block.q_proj.weight, block.k_proj.weight
            key.mul_((1 - mimetic**2) ** 0.5).add_(mimetic * query)
            block.attn_out.weight.add_(0.5 * mimetic * block.v_proj.weight.T)


def _rope(length: int, config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [length, head_dim] in float32, halves repeated."""
    head_dim = config.d_model // config.n_heads
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * (
        config.rope_theta**-exponent
    )
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [batch, heads, length, head_dim] by its positions, in float32."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)
