"""transformers' DiffusionGemma over a checkpoint of this package, and its draws made ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.draws import uniform
from starr_engine.engine.drafting import draft_ids
from starr_engine.models.base import ModelSpec
from starr_engine.request import Request

VISION = {
    "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "position_embedding_size": 8,
}  # fmt: skip


def twin_of(folder: Path) -> DiffusionGemmaForBlockDiffusion:
    """The model of transformers with the folder's weights and any vision tower."""
    config = json.loads((folder / "config.json").read_text()) | {"vision_config": VISION}
    model = DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig(**config))
    found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not found.unexpected_keys
    model.tie_weights()
    # Copies of what is tied, and the tower.
    tied = ("lm_head.weight", "model.encoder.language_model.", "model.encoder.vision_tower.",
            "model.encoder.embed_vision.")  # fmt: skip
    assert all(name.startswith(tied) for name in found.missing_keys)
    assert not any(name.endswith("layer_scalar") for name in found.missing_keys)
    model.set_attn_implementation("eager")
    return cast(DiffusionGemmaForBlockDiffusion, model.float().eval())


@torch.inference_mode()
def twin_logits(
    model: DiffusionGemmaForBlockDiffusion,
    context: Sequence[int],
    canvas: Sequence[int],
    told: Tensor | None,
) -> Tensor:
    """Logits [len(canvas), vocabulary] of one denoising step behind a context.

    Args:
        model: See :func:`twin_of`.
        context: Prompt and committed blocks, at least one token.
        canvas: As the decoder sees it.
        told: Logits of the step before, [len(canvas), vocabulary]; None tells nothing.
    """
    out = model(
        input_ids=torch.tensor([list(context)]),
        decoder_input_ids=torch.tensor([list(canvas)]),
        self_conditioning_logits=None if told is None else told[None],
    )
    return cast(Tensor, out.logits[0])


class Draws:
    """The engine's draws for one request, in the places where transformers draws its own.

    Args:
        spec: Of the model.
        seed: Of the request.
        prompt_len: Of the request.
        length: Of every block.
    """

    def __init__(self, spec: ModelSpec, seed: int, prompt_len: int, length: int) -> None:
        self._spec, self._seed = spec, seed
        self._prompt_len, self._length = prompt_len, length
        self.block, self.step = -1, -1

    def open_block(self) -> None:
        self.block, self.step = self.block + 1, -1

    def canvas(self, batch_size: int, device: torch.device) -> Tensor:
        """Noise of the next step."""
        assert batch_size == 1
        self.step += 1
        canvas = SimpleNamespace(block_index=self.block, active_block=range(self._length))
        request = SimpleNamespace(
            canvas=canvas, steps_in_block=self.step, params=SimpleNamespace(seed=self._seed)
        )
        return torch.from_numpy(draft_ids(cast(Request, request), self._spec))[None].to(device)

    def tokens(self, odds: Tensor, num_samples: int) -> Tensor:
        """A token for each row of ``odds`` [length, vocabulary]: [length, 1]."""
        assert num_samples == 1
        view = SimpleNamespace(
            masked=torch.ones(1, self._length, dtype=torch.bool),
            seed=torch.tensor([self._seed]),
            num_left=torch.tensor([self._prompt_len + self.block * self._length]),
            step=torch.tensor([self.step]),
        )
        look = cast(BlockView, view)
        chance = (uniform(look).double() + uniform(look, 1).double() / 2**24)[0]
        return (odds.double().cumsum(-1) <= chance[:, None]).sum(-1, keepdim=True)


@contextmanager
def drawing(model: DiffusionGemmaForBlockDiffusion, draws: Draws) -> Iterator[None]:
    """Let ``model.generate`` draw from ``draws``."""
    prepare = model._prepare_denoiser_inputs
    sampler = "transformers.models.diffusion_gemma.generation_diffusion_gemma.EntropyBoundSampler"

    def prepared(**inputs: Any) -> Any:
        draws.open_block()
        return prepare(**inputs)

    def canvas(self: object, batch_size: int, device: torch.device) -> Tensor:
        return draws.canvas(batch_size, device)

    with (
        mock.patch.object(model, "_prepare_denoiser_inputs", prepared),
        mock.patch(f"{sampler}.initialize_canvas", canvas),
        mock.patch("torch.multinomial", draws.tokens),
    ):
        yield
