"""Engines over small random checkpoints, and the reference decoding of the same files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.engine.engine import Engine
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading import loader as loading
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.llada_reference import LLaDAReference
from tests.helpers.reference_caches import DEFAULTS, CachedForward, CachedOutput
from tests.helpers.reference_dllm import FeatureForward
from tests.helpers.reference_engine import ReferenceOutput, blocks_of, reference_generate
from tests.helpers.reference_wino import reference_wino


def sharp_checkpoint(folder: Path, *, seed: int = 0, sharpness: float = 5.0) -> Path:
    """A random checkpoint whose confidences span the whole of [0, 1].

    Plain random weights are sure of nothing, and every gate would end in the progress guarantee.
    """
    config = llada_config(max_sequence_length=256)
    tensors = llada_tensors(config, seed=seed)
    tensors["model.transformer.ln_f.weight"] = tensors["model.transformer.ln_f.weight"] * sharpness
    write_checkpoint(folder, config, tensors)
    return folder


class Reference:
    """Reference decoding of one checkpoint folder, remembering logits it has computed.

    Args:
        folder: Of the checkpoint.
        shift: How many rows in front of a position its logits stand.
    """

    def __init__(self, folder: Path, shift: int = 0) -> None:
        self.shift = shift
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.model = LLaDAReference.from_folder(folder, self.config)
        self._logits = functools.lru_cache(maxsize=None)(self.model.logits)

    def generate(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        template: Sequence[int | None] | None = None,
    ) -> ReferenceOutput:
        """One request, alone."""
        if params.remasking == "wino":
            return reference_wino(
                self.model.logits,
                prompt,
                params,
                self.config["mask_token_id"],
                [self.config["eos_token_id"]],
                template,
            )
        return reference_generate(
            lambda canvas: self._logits(tuple(canvas)),
            prompt,
            params,
            self.config["mask_token_id"],
            [self.config["eos_token_id"]],
            template,
            shift=self.shift,
        )

    def generate_cached(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        template: Sequence[int | None] | None = None,
    ) -> CachedOutput:
        """One request, alone, under its cache policy."""
        mask, eos = self.config["mask_token_id"], [self.config["eos_token_id"]]
        rest = [None] * params.max_tokens if template is None else template
        masks = [len(prompt) + i for i, token in enumerate(rest) if token is None]
        args = DEFAULTS[params.cache] | dict(params.cache_args)
        assert args.keys() == DEFAULTS[params.cache].keys()
        forward: CachedForward | FeatureForward
        if params.cache == "dllm":
            forward = FeatureForward(self.model, args, prompt_len=masks[0] - self.shift)
        else:
            blocks = list(blocks_of(masks[0], masks[-1] + 1, params.block_length or 32))
            forward = CachedForward(self.model, params.cache, args, mask, blocks, self.shift)
        out = reference_generate(forward, prompt, params, mask, eos, template, shift=self.shift)
        return CachedOutput(
            out.token_ids,
            out.finish_reason,
            out.nfe,
            out.num_unmasked,
            forward.computed_rows,
            forward.narrowest,
        )


def assert_same(output: RequestOutput, expected: ReferenceOutput) -> None:
    """Token for token, and forward for forward."""
    got = (list(output.token_ids), output.finish_reason, output.nfe, output.num_unmasked)
    assert got == (
        expected.token_ids,
        expected.finish_reason,
        expected.nfe,
        expected.num_unmasked,
    )


def random_prompts(count: int, *, seed: int = 0, longest: int = 20) -> list[list[int]]:
    """Prompts of ids 4..100, of 1 to ``longest`` tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 101, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def as_prompts(ids: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """Token ids as ``LLM.generate`` takes them."""
    return [{"prompt_token_ids": list(prompt)} for prompt in ids]


def make_llm(folder: Path, spec: Mapping[str, Any] | None = None, **options: Any) -> LLM:
    """An engine on the CPU in float32; ``spec`` makes another kind of model of the checkpoint."""
    torch.manual_seed(0)

    def build_model(*args: Any, **kwargs: Any) -> DiffusionModel:
        model = loading.build_model(*args, **kwargs)
        model.spec = replace(model.spec, **(spec or {}))
        return model

    with mock.patch("starr_engine.engine.loading.build_model", build_model):
        return LLM(str(folder), **({"device": "cpu", "dtype": "float32"} | options))


def assert_all_pages_free(engine: Engine) -> None:
    """Nothing is running, and no page is held by anything but the canvas cache."""
    assert not engine.has_unfinished
    engine.reset_caches()
    engine.page_pool.check_invariants()
    assert engine.page_pool.num_free == engine.page_pool.num_pages - 1
