"""The two models that are made here, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from tools.train_tiny.llada import format as llada_format
from tools.train_tiny.llada.decode import decode as llada_decode
from tools.train_tiny.llada.trainer import LLaDATrainer
from tools.train_tiny.schedule import TrainConfig
from tools.train_tiny.sdar import format as sdar_format
from tools.train_tiny.sdar.decode import decode as sdar_decode
from tools.train_tiny.sdar.schedule import CONFIG as SDAR_CONFIG
from tools.train_tiny.sdar.trainer import SDARTrainer
from tools.train_tiny.trainer import Trainer

Answers = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One model: how it is trained, written, read and decoded."""

    trainer: type[Trainer]
    config: TrainConfig
    """Everything that decides the weights."""
    architecture: str
    """In the published configuration."""
    build: Callable[[Mapping[str, Any]], nn.Module]
    """Makes a model from the fields of its configuration."""
    export: Callable[[nn.Module, int, int, Path], None]
    """Writes a model, with the ids of mask and EOS, into a folder."""
    load_model: Callable[[Path], nn.Module]
    """Reads that folder."""
    decode: Callable[[Any, Sequence[Sequence[int]], int, int], Answers]
    """Answers to prompts, from a model and the ids of mask and EOS."""
    decoding: str
    """What ``decode`` does, in words."""


KINDS: Final[Mapping[str, Kind]] = {
    "tiny-llada": Kind(
        trainer=LLaDATrainer,
        config=TrainConfig(),
        architecture="LLaDAModelLM",
        build=llada_format.build,
        export=llada_format.export,
        load_model=llada_format.load_model,
        decode=llada_decode,
        decoding="low-confidence remasking, one token per step, block 32, max 64 new tokens",
    ),
    "tiny-sdar": Kind(
        trainer=SDARTrainer,
        config=SDAR_CONFIG,
        architecture="SDARForCausalLM",
        build=sdar_format.build,
        export=sdar_format.export,
        load_model=sdar_format.load_model,
        decode=sdar_decode,
        decoding=(
            "low-confidence remasking, one token per step, blocks of 16 counted from the prompt's "
            "first token, max 64 new tokens"
        ),
    ),
}
"""By the names that the models ship under."""


def kind_of(folder: Path) -> Kind:
    """Return the kind of an exported folder, by its architecture."""
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    return next(kind for kind in KINDS.values() if kind.architecture == architecture)
