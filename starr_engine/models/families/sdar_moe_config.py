"""What a published ``config.json`` of SDAR with mixtures of experts means.

Fields are those of Qwen3-MoE, plus those that the dense SDAR checkpoints have.

Source:
    ``configuration_sdar_moe.py`` and ``modeling_sdar_moe.py`` of JetLM/SDAR-30B-A3B-Chat, as kept
    in linyewei526/dLLM-ARIS-1.
"""

from __future__ import annotations

from typing import Final

from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.families.sdar_config import read_sdar_decoder
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles
from starr_engine.models.mixture import SoftmaxMixture, read_num_experts

ARCHITECTURE: Final = "SDARMoeForCausalLM"


def read_sdar_moe(files: ConfigFiles) -> tuple[DecoderConfig, SoftmaxMixture]:
    """Check and translate the files of a checkpoint.

    Sizes must be written down, and so must ``norm_topk_prob``, because engines do not agree on
    what an absent one means. Everything else is as in the dense checkpoints.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    fields = ConfigFields(files.config, ARCHITECTURE)
    fields.require("model_type", "sdar_moe", default=None)
    num_experts, num_chosen = read_num_experts(fields)
    inner_size = fields.positive_int("moe_intermediate_size")
    if not fields.has("norm_topk_prob"):
        fields.problem("norm_topk_prob is missing; it must be true or false")
    renormalise = fields.flag("norm_topk_prob", default=False)
    config = read_sdar_decoder(
        fields, files, ARCHITECTURE, head_dim_is_written=False, has_dense_layers=False
    )
    layers = _mixtures(fields, config.spec.num_layers)
    if not all(layers) and not fields.has("intermediate_size"):
        fields.problem("intermediate_size is missing, and not all layers are mixtures")
    fields.check()
    mixture = SoftmaxMixture(
        num_experts=num_experts,
        num_chosen=num_chosen,
        inner_size=inner_size,
        renormalise=renormalise,
        layers=layers,
    )
    return config, mixture


def _mixtures(fields: ConfigFields, num_layers: int) -> tuple[bool, ...]:
    """Of every layer, whether it is a mixture: each n-th one that is not listed as dense."""
    dense = fields.whole_numbers("mlp_only_layers", default=())
    step = fields.positive_int("decoder_sparse_step", default=1)
    return tuple(index not in dense and (index + 1) % step == 0 for index in range(num_layers))
