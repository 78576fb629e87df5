"""Nemotron-Labs-Diffusion: Ministral, whose finished rows are causal and whose block is not.

The first token of a block is named by the row in front of it, as in the autoregressive mode; the
others name their own.

Source:
    nvidia/Nemotron-Labs-Diffusion-3B and 8B: ``config.json`` as quoted by vLLM's and other engines'
    tests, tensor names and the scale of queries as in SGLang's model, generation as in the sampler
    of ZHZisZZ/dllm, which keeps the order of the authors' own. That itself was not to be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from starr_engine.layers.places import TensorPlace
from starr_engine.layers.rotary import RotaryEmbedding, Rotation
from starr_engine.layers.rotary_scaling import Yarn
from starr_engine.models.base import PublishedDecoding
from starr_engine.models.decoder import HEAD_WEIGHT, DecoderModel
from starr_engine.models.decoder_config import DecoderConfig, read_mask_token_id, read_spec
from starr_engine.models.loading.config_fields import MOST_POSITIONS, ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

ARCHITECTURE: Final = "NemotronLabsDiffusionModel"

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("dlm_paradigm", "bidirectional", "bidirectional"),
    ("hidden_act", "silu", "silu"),
    ("attention_bias", False, False),
    ("mlp_bias", False, False),
    ("sliding_window", None, None),
    ("rope_scaling", None, None),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryScale:
    """Queries of rows far from the beginning are enlarged, step by step.

    Source:
        Llama 4; ``get_llama_4_attn_scale`` of transformers' Ministral3.
    """

    beta: float
    length: int
    """Rows of a step."""

    def of(self, positions: Tensor) -> Tensor:
        """[T] int64 -> [T, 1, 1] float32."""
        steps = (positions.float() / self.length).floor()
        return (1 + self.beta * steps.log1p())[:, None, None]


class NemotronDiffusionModel(DecoderModel):
    """The text models of 3B, 8B and 14B; in their diffusion mode, without the drafter's LoRA."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={
            "remasking": "threshold",
            "remasking_args": {"threshold": 0.9, "first_alone": True},
        },
        source="the order of the authors' generate, as in ZHZisZZ/dllm",
    )

    def __init__(
        self, config: DecoderConfig, yarn: Yarn | None, query_scale: QueryScale | None
    ) -> None:
        spec = config.spec
        rotary = RotaryEmbedding(
            spec.head_dim, spec.max_model_len, config.rope_theta, full_precision=False, yarn=yarn
        )
        super().__init__(config, rotary=rotary)
        self.query_scale = query_scale

    @classmethod
    def from_files(cls, files: ConfigFiles) -> NemotronDiffusionModel:
        """See the base class; parameters are on the ``meta`` device."""
        config, yarn, query_scale = read_nemotron_diffusion(files)
        with torch.device("meta"):
            return cls(config, yarn, query_scale)

    def tensor_places(self) -> Mapping[str, TensorPlace]:
        """The body is published as ``encoder``, the head as ``diffusion_head``."""
        return {_published(name): place for name, place in super().tensor_places().items()}

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """A tied head that a checkpoint stores all the same."""
        return {_published(name): at for name, at in super().repeated_parameters.items()}

    def rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """See the base class."""
        rotation = super().rotation(positions, dtype)
        if self.query_scale is None:
            return rotation
        return replace(rotation, query_scale=self.query_scale.of(positions).to(dtype))


def _published(name: str) -> str:
    if name == HEAD_WEIGHT:
        return "diffusion_head.weight"
    return "encoder." + name.removeprefix("model.")


def read_nemotron_diffusion(
    files: ConfigFiles,
) -> tuple[DecoderConfig, Yarn | None, QueryScale | None]:
    """Check and translate the files of a checkpoint.

    Fields are those of Ministral3, plus ``block_size``, ``mask_token_id`` and ``dlm_paradigm``.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    fields = ConfigFields(files.config, ARCHITECTURE)
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    spec = read_spec(
        fields,
        files,
        architecture=ARCHITECTURE,
        mask_token_id=read_mask_token_id(
            fields, files.tokenizer, "100 where the authors published the checkpoint"
        ),
        head_dim_is_written=True,
        attention_kind="causal_context",
        block_length=fields.positive_int("block_size"),
        seeds_block=True,
    )
    written = fields.optional("rope_parameters", None)
    if not isinstance(written, Mapping):
        fields.problem(f"rope_parameters must hold rope_theta and rope_type, got {written!r}")
        written = {"rope_theta": 1.0, "rope_type": "default"}
    rope = fields.of_other_file("rope_parameters", written)
    config = DecoderConfig(
        spec=spec,
        intermediate_size=fields.positive_int("intermediate_size"),
        rms_norm_eps=fields.positive_number("rms_norm_eps"),
        rope_theta=rope.positive_number("rope_theta"),
        tied_head=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=False,
        output_bias=False,
        qk_norm=False,
    )
    yarn, query_scale = _yarn(rope), _query_scale(rope)
    fields.check()
    return config, yarn, query_scale


def _yarn(rope: ConfigFields) -> Yarn | None:
    kind = rope.optional("rope_type", None)
    if kind == "default":
        return None
    if kind != "yarn":
        rope.problem(f"rope_type must be yarn or default, got {kind!r}")
        return None
    rope.require("attention_factor", None, default=None)
    rope.require("truncate", True, default=True)
    return Yarn(
        factor=rope.positive_number("factor"),
        original_length=rope.positive_int(
            "original_max_position_embeddings", at_most=MOST_POSITIONS
        ),
        beta_fast=rope.positive_number("beta_fast", 32.0),
        beta_slow=rope.positive_number("beta_slow", 1.0),
        mscale=rope.positive_number("mscale") if rope.has("mscale") else None,
        mscale_all_dim=(
            rope.positive_number("mscale_all_dim") if rope.has("mscale_all_dim") else None
        ),
    )


def _query_scale(rope: ConfigFields) -> QueryScale | None:
    if not rope.has("llama_4_scaling_beta"):
        return None
    return QueryScale(
        beta=rope.positive_number("llama_4_scaling_beta"),
        length=rope.positive_int("original_max_position_embeddings", at_most=MOST_POSITIONS),
    )
