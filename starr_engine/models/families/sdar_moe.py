"""SDAR with mixtures of experts: a Qwen3-MoE transformer with SDAR's block-causal attention."""

from __future__ import annotations

from typing import ClassVar

import torch

from starr_engine.models.decoder import DecoderModel
from starr_engine.models.families.sdar_moe_config import ARCHITECTURE, read_sdar_moe
from starr_engine.models.loading.config_files import ConfigFiles


class SDARMoEModel(DecoderModel):
    """SDAR-30B-A3B and models of its format."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    @classmethod
    def from_files(cls, files: ConfigFiles) -> SDARMoEModel:
        """See the base class; parameters are on the ``meta`` device."""
        config, mixture = read_sdar_moe(files)
        with torch.device("meta"):
            return cls(config, mixture.feed_forward_of(config))
