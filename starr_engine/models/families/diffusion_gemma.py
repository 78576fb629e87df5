"""DiffusionGemma: Gemma 4 as an encoder of what is final and a decoder of the canvas, in one.

Both run through the same weights but for one scalar of each layer. Rows of the context are causal;
rows of the active block see all of it and each other, hold random tokens where nothing is decided,
and are shown what the step before made of them.

Letters: T rows of the step, M rows with logits, C canvas rows, N query heads, K key/value heads,
D head size.

Source:
    google/diffusiongemma-26B-A4B-it; names and arithmetic as in ``diffusion_gemma`` of transformers
    5.23. Differs from it in that it runs on flat rows with explicit positions and leaves attention,
    its masks included, to the caller; the vision tower is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.experts import StackedExperts
from starr_engine.layers.linear import Embedding, Linear
from starr_engine.layers.mlp import GatedFeedForward, geglu
from starr_engine.layers.norm import WideRMSNorm
from starr_engine.layers.places import TensorPlace
from starr_engine.layers.rotary import RotaryAngles, Rotation
from starr_engine.layers.routing import ScaledRouter
from starr_engine.layers.transformer_layer import TransformerLayer, split_heads
from starr_engine.models.base import (
    CanvasRows,
    DiffusionModel,
    LayerShape,
    PublishedDecoding,
)
from starr_engine.models.families.diffusion_gemma_config import (
    ARCHITECTURE,
    SLIDING,
    DiffusionGemmaConfig,
    read_diffusion_gemma,
)
from starr_engine.models.loading.config_files import ConfigFiles

DECODER: Final = "model.decoder."
ENCODER: Final = "model.encoder.language_model."
_CONTEXT_SCALAR: Final = "context_scalar"


class _Attention(nn.Module):
    """Parameters of attention under their published names.

    Full layers have no ``v_proj``: their values are what ``k_proj`` makes, normalised apart.
    """

    def __init__(
        self, config: DiffusionGemmaConfig, shape: LayerShape, *, is_sliding: bool
    ) -> None:
        super().__init__()
        size, eps = config.spec.hidden_size, config.rms_norm_eps
        query_size = config.spec.num_heads * shape.head_dim
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = Linear(size, query_size, bias=False)
        self.k_proj = Linear(size, kv_size, bias=False)
        self.v_proj = Linear(size, kv_size, bias=False) if is_sliding else None
        self.o_proj = Linear(query_size, size, bias=False)
        self.q_norm = WideRMSNorm(shape.head_dim, eps)
        self.k_norm = WideRMSNorm(shape.head_dim, eps)
        self.v_norm = WideRMSNorm(shape.head_dim, eps, scale=False)


class DiffusionGemmaLayer(TransformerLayer):
    """Attention and two feed-forward parts side by side, dense and mixed, with norms around all."""

    def __init__(self, config: DiffusionGemmaConfig, index: int) -> None:
        super().__init__()
        size, eps = config.spec.hidden_size, config.rms_norm_eps
        shape, kind = config.spec.shapes[index], config.layer_types[index]
        self.head_dim = shape.head_dim
        self.input_layernorm = WideRMSNorm(size, eps)
        self.self_attn = _Attention(config, shape, is_sliding=kind == SLIDING)
        self.post_attention_layernorm = WideRMSNorm(size, eps)
        self.pre_feedforward_layernorm = WideRMSNorm(size, eps)
        self.mlp = GatedFeedForward(size, config.intermediate_size, geglu)
        self.post_feedforward_layernorm_1 = WideRMSNorm(size, eps)
        self.router = ScaledRouter(size, config.num_experts, config.num_chosen, eps)
        self.pre_feedforward_layernorm_2 = WideRMSNorm(size, eps)
        self.experts = StackedExperts(config.num_experts, size, config.expert_size, geglu)
        self.post_feedforward_layernorm_2 = WideRMSNorm(size, eps)
        self.post_feedforward_layernorm = WideRMSNorm(size, eps)
        self.layer_scalar = nn.Parameter(torch.empty(1))
        """Of canvas rows."""

        self.context_scalar = nn.Parameter(torch.empty(1))
        """Of all others."""

    def normed(self, rows: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.input_layernorm(rows)
        return out

    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """See the base class."""
        part = self.self_attn
        query = part.q_norm(split_heads(part.q_proj(normed), self.head_dim))
        key = part.k_norm(split_heads(part.k_proj(normed), self.head_dim))
        query, key = rotation.turn(query, key)
        # Scores are those of the normalised rows as they are; attention divides by this root.
        return query * self.head_dim**0.5, key

    def value(self, normed: Tensor) -> Tensor:
        """See the base class."""
        part = self.self_attn
        project = part.k_proj if part.v_proj is None else part.v_proj
        out: Tensor = part.v_norm(split_heads(project(normed), self.head_dim))
        return out

    def attention_output(self, mixed: Tensor) -> Tensor:
        """See the base class."""
        out: Tensor = self.post_attention_layernorm(self.self_attn.o_proj(mixed.flatten(1)))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """See the base class; the router sees the rows themselves."""
        dense = self.mlp(self.pre_feedforward_layernorm(rows))
        chosen = self.router(rows)
        mixed = self.experts(self.pre_feedforward_layernorm_2(rows), *chosen)
        both = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(mixed)
        out: Tensor = self.post_feedforward_layernorm(both)
        return out

    def finished(self, rows: Tensor, is_canvas: Tensor | None) -> Tensor:
        """See the base class."""
        if is_canvas is None:
            return rows * self.context_scalar
        return rows * torch.where(is_canvas[:, None], self.layer_scalar, self.context_scalar)


class _SelfConditioning(GatedFeedForward):
    """What canvas rows are told of the step before, and the norm after it."""

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        size, eps = config.spec.hidden_size, config.rms_norm_eps
        super().__init__(size, config.intermediate_size, geglu)
        self.pre_norm = WideRMSNorm(size, eps)
        self.post_norm = WideRMSNorm(size, eps, scale=False)

    def applied(self, rows: Tensor, soft: Tensor) -> Tensor:
        """[C, hidden_size] twice -> the same; told nothing, rows are normalised all the same."""
        out: Tensor = self.post_norm(rows + self(self.pre_norm(soft)))
        return out


class _Decoder(nn.Module):
    """The level that puts ``model.decoder.`` before every name."""

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        spec = config.spec
        self.embed_tokens = Embedding(config.num_rows, spec.hidden_size)
        self.self_conditioning = _SelfConditioning(config)
        self.layers = nn.ModuleList(
            DiffusionGemmaLayer(config, index) for index in range(spec.num_layers)
        )
        self.norm = WideRMSNorm(spec.hidden_size, config.rms_norm_eps)


class DiffusionGemmaModel(DiffusionModel):
    """DiffusionGemma 26B-A4B and models of its format; text alone."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={"remasking": "entropy_bound"},
        source="generate of transformers 5.23 and its defaults, which the checkpoint repeats",
    )

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.spec = config.spec
        self.model = nn.Module()
        self.model.decoder = _Decoder(config)
        self._softcap = config.softcap
        self._layer_types = config.layer_types
        sizes = dict(zip(config.layer_types, config.spec.shapes, strict=True))
        self.rotary = nn.ModuleDict(
            {
                kind: RotaryAngles(sizes[kind].head_dim, turning.theta, turning.share)
                for kind, turning in config.turning.items()
            }
        )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> DiffusionGemmaModel:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_diffusion_gemma(files)
        with torch.device("meta"):
            return cls(config)

    @property
    def _decoder(self) -> _Decoder:
        return cast(_Decoder, self.model.decoder)

    def tensor_places(self) -> Mapping[str, TensorPlace]:
        """The scalars of the context are published with the encoder."""
        return {_published(name): place for name, place in super().tensor_places().items()}

    @property
    def num_idle_parameters(self) -> int:
        """See the base class."""
        layers = cast(Sequence[DiffusionGemmaLayer], self.layers)
        return sum(layer.experts.num_idle_parameters(layer.router.num_chosen) for layer in layers)

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """The head, and the encoder's copies of the decoder's weights."""
        shared = {
            ENCODER + name.removeprefix(DECODER): place.parameter
            for name, place in self.tensor_places().items()
            if name.startswith(DECODER)
            and "self_conditioning" not in name
            and not name.endswith("layer_scalar")
        }
        return {"lm_head.weight": f"{DECODER}embed_tokens.weight", **shared}

    @property
    def unread_prefixes(self) -> tuple[str, ...]:
        """Images are not read."""
        return ("model.encoder.vision_tower.", "model.encoder.embed_vision.")

    @property
    def layers(self) -> Sequence[TransformerLayer]:
        """See the base class."""
        return cast(Sequence[TransformerLayer], self._decoder.layers)

    def embed(self, input_ids: Tensor) -> Tensor:
        """See the base class."""
        return self._scaled(self._decoder.embed_tokens(input_ids))

    def rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Of the last layer."""
        return self.rotations(positions, dtype)[-1]

    def rotations(self, positions: Tensor, dtype: torch.dtype) -> Sequence[Rotation]:
        """See the base class."""
        of_kind = {kind: rotary(positions, dtype) for kind, rotary in self.rotary.items()}
        return [of_kind[kind] for kind in self._layer_types]

    def conditioned(self, rows: Tensor, canvas: CanvasRows) -> Tensor:
        """See the base class."""
        seen = rows.index_select(0, canvas.rows)
        told = self._decoder.self_conditioning.applied(seen, canvas.soft)
        return rows.index_copy(0, canvas.rows, told)

    def soft_rows(self, logits: Tensor) -> Tensor:
        """The mean of all embeddings, weighted by their probability: [M, hidden_size]."""
        weight = self._decoder.embed_tokens.weight
        odds = logits[:, : len(weight)].to(weight.dtype).softmax(-1, dtype=torch.float32)
        return self._scaled(odds.to(weight.dtype) @ weight)

    def final_norm(self, rows: Tensor) -> Tensor:
        """See the base class."""
        normed: Tensor = self._decoder.norm(rows)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """See the base class; float32, and the mask's are the least that any can be."""
        found = functional.linear(hidden, self._decoder.embed_tokens.weight).float()
        logits = found.new_empty((len(found), self.spec.vocab_size))
        logits[:, :-1] = (found / self._softcap).tanh_().mul_(self._softcap)
        logits[:, -1] = -self._softcap
        return logits

    def _scaled(self, rows: Tensor) -> Tensor:
        # The factor has the dtype of the rows, as in training: 53 in bfloat16 for 53.07.
        return rows * float(torch.tensor(self.spec.hidden_size**0.5, dtype=rows.dtype))


def _published(name: str) -> str:
    if name.endswith(_CONTEXT_SCALAR):
        return ENCODER + name.removeprefix(DECODER).replace(_CONTEXT_SCALAR, "layer_scalar")
    return name
