"""Dream: a Qwen2 transformer without a causal mask that kept its autoregressive output head.

The head was trained to name the next token, and still does: the logits of a position are those of
the row in front of it.

Source:
    "Dream 7B: Diffusion Large Language Models", arXiv 2508.15487; names, switches and the shift as
    in the modelling and generation files of Dream-v0-Instruct-7B.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from starr_engine.models.base import PublishedDecoding
from starr_engine.models.decoder import DecoderModel
from starr_engine.models.families.dream_config import ARCHITECTURE, read_dream
from starr_engine.models.loading.config_files import ConfigFiles


class DreamModel(DecoderModel):
    """Dream-v0 and what was made of it in its format: Dream-Coder, DiffuCoder."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={
            "remasking": "maskgit_plus",
            "remasking_args": {"score": "entropy"},
            "temperature": 0.2,
            "top_p": 0.95,
        },
        source="README of Dream, with one block as long as the output",
    )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> DreamModel:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_dream(files)
        with torch.device("meta"):
            return cls(config)
