"""LLaDA-MoE: a bidirectional transformer whose feed-forward parts are mixtures of experts.

Source:
    "LLaDA-MoE: A Sparse MoE Diffusion Language Model", arXiv 2509.24389; names and switches as in
    LLaDA-MoE-7B-A1B-Base and -Instruct.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from starr_engine.models.decoder import DecoderModel
from starr_engine.models.families.llada_moe_config import ARCHITECTURES, read_llada_moe
from starr_engine.models.loading.config_files import ConfigFiles


class LLaDAMoEModel(DecoderModel):
    """LLaDA-MoE-7B-A1B and models of its format."""

    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES

    @classmethod
    def from_files(cls, files: ConfigFiles) -> LLaDAMoEModel:
        """See the base class; parameters are on the ``meta`` device."""
        config, mixture = read_llada_moe(files)
        with torch.device("meta"):
            return cls(config, mixture.feed_forward_of(config))
