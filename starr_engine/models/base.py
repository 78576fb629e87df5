"""What a model is to the engine: rows in, hidden rows out, layer by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from starr_engine.errors import ConfigError
from starr_engine.layers.attention import LayerAttention
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.layers.places import TensorPlace, module_places
from starr_engine.layers.ranks import Ranks, Splits
from starr_engine.layers.rotary import Rotation
from starr_engine.layers.transformer_layer import TransformerLayer
from starr_engine.models.loading.config_files import ConfigFiles
from starr_engine.models.sharing import share_of_heads, split_problem
from starr_engine.registry import Registry

AttentionKind = Literal["bidirectional", "block_causal", "causal_context"]
NoiseKind = Literal["mask", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What a layer's attention has of its own, where layers differ."""

    num_kv_heads: int
    head_dim: int
    window: int | None = None
    """Rows up to itself, and itself, that a row of the context sees; rows of the active block see
    the ``window - 1`` in front of the block, and the block. None sees all that the kind allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasRows:
    """The rows of a forward that are of an active block; T rows in all, C of these."""

    is_canvas: Tensor
    """[T] bool."""

    rows: Tensor
    """[C] int64: where it holds, ascending."""

    soft: Tensor
    """[C, hidden_size] what :meth:`DiffusionModel.soft_rows` made of the logits of the step before;
    0 for rows that have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about a checkpoint that the engine needs, read from its own files."""

    architecture: str
    vocab_size: int
    """Columns of the logits; of as many token ids, the mask's may be one that stands in no text."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """With ``layer_shapes``, both are those of the first layer."""

    max_model_len: int
    """Longest canvas, prompt included."""

    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    attention_kind: AttentionKind
    """``bidirectional``: a row sees every row of its request. ``block_causal``: those up to the end
    of its own block, of blocks counted from position 0. ``causal_context``: rows of the active
    block see all up to its end, rows in front of it only themselves and what precedes them."""

    block_length: int | None = None
    """Of the attention mask if it is block-causal; with a causal context, of the blocks that the
    model was trained to fill. None if bidirectional."""

    sub_block_length: int | None = None
    """Positions of a block-causal model's block that its authors decode together; a divisor of
    ``block_length``. None decodes whole blocks."""

    logits_shift: bool = False
    """Whether the logits of a position are those of the row in front of it, as in the
    autoregressive models from which such a model was made."""

    block_length_is_assumed: bool = False
    """Whether no file of the checkpoint says it, so that the family's usual one was taken."""

    seeds_block: bool = False
    """Whether the logits of a block's first position are those of the row in front of it, as in an
    autoregressive model, while the others' are their own."""

    may_be_block_causal: bool = False
    """Whether a checkpoint of this architecture may have been trained with a block-causal mask
    although no file says so: ``mask_block_length`` then makes the model so."""

    noise: NoiseKind = "mask"
    """What a row of the active block holds that is not decided: the mask token, or a token drawn
    uniformly from the vocabulary, anew at every step. With the latter ``mask_token_id`` is the last
    column of the logits, an id that no text has and the model never sees."""

    self_conditioning: bool = False
    """Whether rows of the active block are shown the logits of the step before."""

    layer_shapes: tuple[LayerShape, ...] = ()
    """Of every layer, where they differ; empty if all are alike."""

    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters that the checkpoint's files ask for, by field."""

    def __post_init__(self) -> None:
        assert not (self.logits_shift and self.seeds_block)
        assert (self.block_length is not None) == (self.attention_kind != "bidirectional")
        assert self.block_length is None or not self.block_length % (self.sub_block_length or 1)
        assert len(self.layer_shapes) in (0, self.num_layers)
        # Rows of the active block are told apart from final ones by a causal context alone.
        is_plain = self.noise == "mask" and not self.self_conditioning and not self.has_windows
        assert is_plain or self.opens_block
        assert self.noise == "mask" or self.mask_token_id == self.vocab_size - 1

    @property
    def mask_block(self) -> int | None:
        """Rows of a block in whose end the sight of its rows ends, as far as these are final.

        The block length of a block-causal mask; 1 for a causal context; None if bidirectional.
        """
        return 1 if self.opens_block else self.block_length

    @property
    def opens_block(self) -> bool:
        """Whether rows of the active block see its end, whatever ``mask_block`` says."""
        return self.attention_kind == "causal_context"

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Of every layer, alike or not."""
        alike = LayerShape(num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)
        return self.layer_shapes or (alike,) * self.num_layers

    @property
    def has_windows(self) -> bool:
        """Whether some layers see a part of the rows only."""
        return any(shape.window is not None for shape in self.layer_shapes)

    @property
    def kv_values_per_row(self) -> int:
        """Numbers that keys and values of one row have over all layers."""
        return sum(2 * shape.num_kv_heads * shape.head_dim for shape in self.shapes)

    @property
    def needs_exact_cache(self) -> bool:
        """Whether rows of the active block must be computed at every step, and all in front read.

        Their noise is new at every step, so that what was computed before is of another canvas;
        and windows are counted in rows that are read without a gap.
        """
        return self.noise == "uniform" or self.has_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDecoding:
    """How the authors of a family decode, in this engine's terms."""

    params: Mapping[str, Any]
    """Fields of ``SamplingParams``."""

    source: str
    """Where they say so."""


class DiffusionModel(nn.Module, ABC):
    """Base of all model families; runs on flat rows, so ragged batches cost no padding.

    Parameters carry the names of the published checkpoint, so that loading is a look-up; a module
    that keeps several published tensors in one parameter says where each goes
    (:class:`~starr_engine.layers.places.HoldsSeveral`).
    """

    architectures: ClassVar[tuple[str, ...]]
    """Values of ``architectures`` in ``config.json`` that this class loads."""

    published_decoding: ClassVar[PublishedDecoding | None] = None
    """Shown by ``starr-engine info``; never taken without being asked for."""

    spec: ModelSpec
    """Of the whole model, also where it is split."""

    ranks: Ranks | None = None
    """Whose share of the model this is; None if it is all of it."""

    split_parameters: frozenset[str] = frozenset()
    """Names of the parameters of which this rank has a share; of the others it has all."""

    _whole_shapes: Mapping[str, tuple[int, ...]] | None = None
    """Of all tensors, from before the model was split."""

    @classmethod
    @abstractmethod
    def from_files(cls, files: ConfigFiles) -> DiffusionModel:
        """Build the model that the checkpoint's JSON files describe, parameters on ``meta``.

        Raises:
            ConfigError: If a field is missing or has a value this family does not support.
        """

    def tensor_places(self) -> Mapping[str, TensorPlace]:
        """Every tensor that a checkpoint of this model holds -> the place that it fills."""
        return module_places(self)

    def tensor_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor that a checkpoint of this model holds -> its shape, however it is split."""
        if self._whole_shapes is not None:
            return self._whole_shapes
        parameters = dict(self.named_parameters())
        return {
            name: tuple(place.of(parameters[place.parameter]).shape)
            for name, place in self.tensor_places().items()
        }

    @property
    def spec_here(self) -> ModelSpec:
        """``spec`` with the heads that this rank has."""
        return self.spec if self.ranks is None else share_of_heads(self.spec, self.ranks.count)

    @property
    def vocabulary_tables(self) -> Sequence[Splits]:
        """The embedding, and an output head of its own: split by token ids.

        What is not among them, every rank has whole.
        """
        return ()

    def split(self, ranks: Ranks) -> None:
        """Keep one rank's share of every matrix; on ``meta``, so that no rank ever holds them all.

        Raises:
            ConfigError: If the model cannot be split so; says why. It is of no use then.
        """
        if problem := split_problem(self.spec, ranks.count):
            raise ConfigError(problem)
        self._whole_shapes = self.tensor_shapes()
        whole = {name: parameter.shape for name, parameter in self.named_parameters()}
        for part in (*self.layers, *self.vocabulary_tables):
            part.split(ranks)
        self.split_parameters = frozenset(
            name for name, parameter in self.named_parameters() if parameter.shape != whole[name]
        )
        self.ranks = ranks

    @property
    def num_idle_parameters(self) -> int:
        """Parameters of experts that a row does not pass through."""
        mixtures = (part for part in self.modules() if isinstance(part, MoEFeedForward))
        return sum(mixture.num_idle_parameters for mixture in mixtures)

    @property
    def repeated_parameters(self) -> Mapping[str, str]:
        """Names that a checkpoint may hold a second time -> the parameter they must equal."""
        return {}

    @property
    def unread_prefixes(self) -> tuple[str, ...]:
        """How names of tensors begin that a checkpoint may hold for what is not computed here."""
        return ()

    @property
    @abstractmethod
    def layers(self) -> Sequence[TransformerLayer]:
        """The layers in the order of the forward; as many as ``spec.num_layers``."""

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Rows before the first layer: [T] int64, masks included -> [T, hidden_size]."""

    @abstractmethod
    def rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """What turns the queries and keys of rows at ``positions``.

        Args:
            positions: [T] int64, counted from 0 in each request.
            dtype: Of the queries and keys.
        """

    def rotations(self, positions: Tensor, dtype: torch.dtype) -> Sequence[Rotation]:
        """:meth:`rotation` of every layer, for models whose layers turn differently."""
        return [self.rotation(positions, dtype)] * len(self.layers)

    def conditioned(self, rows: Tensor, canvas: CanvasRows) -> Tensor:
        """Rows before the first layer once those of active blocks have been told of the last step.

        Args:
            rows: [T, hidden_size] of :meth:`embed`.
            canvas: Which rows, and what they are told.

        Returns:
            [T, hidden_size]; ``rows`` if the model is not self-conditioned.
        """
        del canvas
        return rows

    def soft_rows(self, logits: Tensor) -> Tensor:
        """What a self-conditioned model keeps of a row's logits: [M, vocab] -> [M, hidden_size]."""
        raise NotImplementedError(f"{type(self).__name__} is not self-conditioned")

    @abstractmethod
    def final_norm(self, rows: Tensor) -> Tensor:
        """What the output head sees of the rows after the last layer: [T, hidden_size]."""

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        attention: LayerAttention,
        canvas: CanvasRows | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            input_ids: [T] int64, masks included.
            positions: [T] int64, counted from 0 in each request.
            attention: Where rows of one request meet.
            canvas: Rows of active blocks, for models that treat them differently; None has none.

        Returns:
            [T, hidden_size].
        """
        rows = self.embed(input_ids)
        if canvas is not None:
            rows = self.conditioned(rows, canvas)
        is_canvas = None if canvas is None else canvas.is_canvas
        rotations = self.rotations(positions, rows.dtype)
        for index, (layer, rotation) in enumerate(zip(self.layers, rotations, strict=True)):
            normed = layer.normed(rows)
            query, key = layer.query_key(normed, rotation)
            mixed = attention(index, query, key, layer.value(normed))
            rows = layer.attention_output(mixed).add_(rows)
            rows = layer.finished(layer.feed_forward(rows).add_(rows), is_canvas)
        return self.final_norm(rows)

    @abstractmethod
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the given rows: [M, hidden_size] -> [M, vocab_size].

        Of a rank's tokens alone if the head is one of the ``vocabulary_tables`` and split.
        """


MODELS: Registry[DiffusionModel] = Registry("architecture")
MODELS.add(
    "DiffusionGemmaForBlockDiffusion",
    "starr_engine.models.families.diffusion_gemma:DiffusionGemmaModel",
)
MODELS.add("DreamModel", "starr_engine.models.families.dream:DreamModel")
MODELS.add("LLaDAModelLM", "starr_engine.models.families.llada:LLaDAModel")
MODELS.add("LLaDAMoEModelLM", "starr_engine.models.families.llada_moe:LLaDAMoEModel")
MODELS.add("LLaDAMoEModel", "starr_engine.models.families.llada_moe:LLaDAMoEModel")
MODELS.add("SDARForCausalLM", "starr_engine.models.families.sdar:SDARModel")
MODELS.add("SDARMoeForCausalLM", "starr_engine.models.families.sdar_moe:SDARMoEModel")
MODELS.add("LLaDA2MoeModelLM", "starr_engine.models.families.llada2:LLaDA2Model")
MODELS.add("Fast_dLLM_QwenForCausalLM", "starr_engine.models.families.fast_dllm_v2:FastDLLMv2Model")
MODELS.add(
    "NemotronLabsDiffusionModel",
    "starr_engine.models.families.nemotron_diffusion:NemotronDiffusionModel",
)
for _name in ("A2DLlamaLMHeadModel", "A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel"):
    MODELS.add(_name, "starr_engine.models.families.a2d:A2DModel")
