"""What the authors of a checkpoint published beside its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starr_engine.errors import ConfigError

TINY: Final = "tiny"
"""Size that every architecture has: its published arithmetic with a few small layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Tokens of a published tokenizer that mean something, by id."""

    num_ids: int
    """Ids that the tokenizer gives out, these included."""

    ids: Mapping[str, int]
    """Text of each special token -> its id, below ``num_ids``."""

    eos: str
    mask: str | None = None
    pad: str | None = None
    bos: str | None = None
    chat_template: str | None = None
    """In Jinja, written for this project: it makes the turns that the published one makes."""

    def __post_init__(self) -> None:
        for name in (self.eos, self.mask, self.pad, self.bos):
            assert name is None or name in self.ids, name
        assert all(0 <= number < self.num_ids for number in self.ids.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """The JSON files of one size of an architecture, and its tokenizer's special tokens."""

    config: Mapping[str, Any]
    """Of ``config.json``."""

    tokens: SpecialTokens
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Of ``generation_config.json``; empty writes none."""


ARCHITECTURES: Final = {
    "a2d": "a2d",
    "diffusion-gemma": "diffusion_gemma",
    "dream": "dream",
    "fast-dllm-v2": "fast_dllm_v2",
    "nemotron-diffusion": "nemotron_diffusion",
    "llada": "llada",
    "llada-moe": "llada_moe",
    "llada2": "llada2",
    "sdar": "sdar",
    "sdar-moe": "sdar_moe",
}
"""Name on the command line -> module of ``architectures``, which has ``SIZES``."""


def published_model(architecture: str, size: str) -> PublishedModel:
    """Look a size up.

    Raises:
        ConfigError: If there is no such architecture or size; lists those there are.
    """
    sizes = published_sizes(architecture)
    if size not in sizes:
        raise ConfigError(f"{architecture} has no size {size!r}; its sizes are {', '.join(sizes)}")
    return sizes[size]


def published_sizes(architecture: str) -> Mapping[str, PublishedModel]:
    """All sizes of an architecture, ``tiny`` among them.

    Raises:
        ConfigError: If the architecture is unknown; lists the known ones.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"unknown architecture {architecture!r}; known: {', '.join(sorted(ARCHITECTURES))}"
        )
    module = importlib.import_module(
        f"starr_engine.make_checkpoint.architectures.{ARCHITECTURES[architecture]}"
    )
    sizes: Mapping[str, PublishedModel] = module.SIZES
    assert TINY in sizes
    return sizes
