"""SDAR: a Qwen3 transformer whose rows see all blocks up to their own.

Source:
    "SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation",
    arXiv 2510.06303; names and switches as in SDAR-1.7B, 4B and 8B.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from starr_engine.models.base import PublishedDecoding
from starr_engine.models.decoder import DecoderModel
from starr_engine.models.families.sdar_config import ARCHITECTURE, read_sdar
from starr_engine.models.loading.config_files import ConfigFiles


class SDARModel(DecoderModel):
    """The dense SDAR checkpoints and models of their format; the mixtures of experts are not."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={"remasking": "threshold", "remasking_args": {"threshold": 0.85}},
        source="generate.py of SDAR, low_confidence_dynamic",
    )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> SDARModel:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_sdar(files)
        with torch.device("meta"):
            return cls(config)
