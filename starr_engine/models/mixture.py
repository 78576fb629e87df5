"""Feed-forward parts of decoders some of whose layers are mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from starr_engine.layers.experts import Experts
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.layers.routing import SoftmaxRouter
from starr_engine.models.decoder import MakeFeedForward
from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.loading.config_fields import MOST_EXPERTS, ConfigFields


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxMixture:
    """Mixtures that choose by a softmax over all experts, without shared ones."""

    num_experts: int
    num_chosen: int
    """Experts of each row."""

    inner_size: int
    """Inner size of one expert."""

    renormalise: bool
    """Whether the weights of a row's experts sum to one."""

    layers: tuple[bool, ...]
    """Of every layer, whether it is a mixture; the others are dense."""

    def feed_forward_of(self, config: DecoderConfig) -> MakeFeedForward:
        """What makes the feed-forward part of each layer of a decoder."""
        size = config.spec.hidden_size

        def make(layer_index: int) -> nn.Module:
            if not self.layers[layer_index]:
                return GatedFeedForward(size, config.intermediate_size)
            gate = SoftmaxRouter(
                size, self.num_experts, self.num_chosen, renormalise=self.renormalise
            )
            return MoEFeedForward(gate, Experts(self.num_experts, size, self.inner_size))

        return make


def read_num_experts(fields: ConfigFields) -> tuple[int, int]:
    """Experts and how many of them a row passes through; problems are noted in ``fields``."""
    num_experts = fields.positive_int("num_experts", at_most=MOST_EXPERTS)
    num_chosen = fields.positive_int("num_experts_per_tok")
    if num_chosen > num_experts:
        fields.problem(
            "num_experts_per_tok must be at most num_experts: "
            f"num_experts_per_tok={num_chosen}, num_experts={num_experts}"
        )
    return num_experts, num_chosen
