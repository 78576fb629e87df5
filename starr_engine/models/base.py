"""What a model is to the engine: rows in, hidden rows out, layer by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from starr_engine.registry import Registry

AttentionKind = Literal["bidirectional", "block_causal", "causal_context"]


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

    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters that the checkpoint's files ask for, by field."""

    def __post_init__(self) -> None:
        assert not (self.logits_shift and self.seeds_block)
        assert (self.block_length is not None) == (self.attention_kind != "bidirectional")
        assert self.block_length is None or not self.block_length % (self.sub_block_length or 1)

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

    @abstractmethod
    def final_norm(self, rows: Tensor) -> Tensor:
        """What the output head sees of the rows after the last layer: [T, hidden_size]."""

    def forward(self, input_ids: Tensor, positions: Tensor, attention: LayerAttention) -> Tensor:
        """Hidden states after the final norm.

        Args:
            input_ids: [T] int64, masks included.
            positions: [T] int64, counted from 0 in each request.
            attention: Where rows of one request meet.

        Returns:
            [T, hidden_size].
        """
        rows = self.embed(input_ids)
        rotation = self.rotation(positions, rows.dtype)
        for index, layer in enumerate(self.layers):
            normed = layer.normed(rows)
            query, key = layer.query_key(normed, rotation)
            mixed = attention(index, query, key, layer.value(normed))
            rows = rows + layer.attention_output(mixed)
            rows = rows + layer.feed_forward(rows)
        return self.final_norm(rows)

    @abstractmethod
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the given rows: [M, hidden_size] -> [M, vocab_size].

        Of a rank's tokens alone if the head is one of the ``vocabulary_tables`` and split.
        """


def split_problem(spec: ModelSpec, count: int) -> str | None:
    """Why the heads of a model cannot be shared by ``count`` ranks, or None.

    Every rank has as many query heads as any other, with all the key/value heads that these read;
    of a key/value head that several ranks read, each has a copy.
    """
    shared = f"tensor_parallel_size={count} cannot share"
    if spec.num_heads % count:
        return f"{shared} {spec.num_heads} query heads evenly; take a divisor of {spec.num_heads}"
    if spec.num_kv_heads % count and count % spec.num_kv_heads:
        return (
            f"{shared} {spec.num_kv_heads} key/value heads evenly; take a divisor or a multiple of "
            f"{spec.num_kv_heads}"
        )
    return None


def share_of_heads(spec: ModelSpec, count: int) -> ModelSpec:
    """The same model with the heads that one of ``count`` ranks has."""
    return replace(
        spec,
        num_heads=spec.num_heads // count,
        num_kv_heads=max(1, spec.num_kv_heads // count),
    )


MODELS: Registry[DiffusionModel] = Registry("architecture")
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
