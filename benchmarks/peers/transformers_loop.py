"""What one writes first: transformers' own model, the whole sequence at every step, one prompt.

The checkpoint's weights in transformers' Llama, which LLaDA is but for the missing causal mask, or
in its Qwen3, which SDAR is but for the block-causal one; its default attention.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.peers.asked import Asked, Prompt
from benchmarks.peers.dense import Counts, block_causal
from starr_engine.errors import ConfigError
from tests.helpers.llama_twin import LlamaTwin
from tests.helpers.qwen3_twin import Qwen3Twin

TWINS: Final[Mapping[str, type[LlamaTwin] | type[Qwen3Twin]]] = {
    "LLaDAModelLM": LlamaTwin,
    "SDARForCausalLM": Qwen3Twin,
}
"""By the architecture of the checkpoint."""


class TransformersForward:
    """Logits of one whole sequence.

    Args:
        folder: Of the checkpoint.
        device: Where it runs.
        dtype: Of weights and activations.
        mask_block: Block length of the attention mask; None is bidirectional.
        mask: The mask token, which is never a candidate.

    Raises:
        ConfigError: If transformers has no model for the architecture.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        mask_block: int | None,
        mask: int,
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        [architecture] = config["architectures"]
        if architecture not in TWINS:
            raise ConfigError(
                f"transformers has no model that computes {architecture}; "
                f"the comparison knows {', '.join(sorted(TWINS))}"
            )
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(path)
        self.model = TWINS[architecture](config, tensors, dtype).model
        self.model.set_attn_implementation("sdpa")
        torch.nn.Module.to(self.model, device)
        self.device, self.dtype, self.mask_block, self.mask = device, dtype, mask_block, mask
        self.counts = Counts()

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of ids [rows], the mask's -inf."""
        self.counts.forwards += 1
        self.counts.rows += len(ids)
        # Without a mask of its own it would be causal.
        bias = torch.zeros((len(ids), len(ids)), dtype=self.dtype, device=self.device)
        if self.mask_block is not None:
            bias.masked_fill_(~block_causal(len(ids), self.mask_block, self.device), -torch.inf)
        output = self.model(ids[None], attention_mask=bias[None, None], use_cache=False)
        logits: Tensor = output.logits[0]
        logits[:, self.mask] = -torch.inf
        return logits


def generate(
    forward: TransformersForward, prompts: Sequence[Prompt], asked: Asked
) -> list[list[int]]:
    """Block by block, the most confident masks first, as many at every step."""
    [prompt] = prompts
    canvas = torch.full(
        (len(prompt.token_ids) + prompt.max_tokens,), asked.mask, device=forward.device
    )
    begin = len(prompt.token_ids)
    canvas[:begin] = torch.tensor(prompt.token_ids, device=forward.device)
    # The blocks of a block-causal model are counted from position 0.
    first = begin if forward.mask_block is None else begin - begin % forward.mask_block
    for start in range(first, len(canvas), asked.block_length):
        stop = start + asked.block_length
        seen = canvas if forward.mask_block is None else canvas[:stop]
        block = canvas[start:stop]
        while bool((block == asked.mask).any()):
            probability, candidate = forward(seen)[start:stop].softmax(-1).max(-1)
            masked = block == asked.mask
            score = torch.where(masked, probability, -torch.inf)
            best = score.argsort(descending=True, stable=True)[: asked.tokens_per_step]
            best = best[masked[best]]
            block[best] = candidate[best]
        if asked.stops_at([canvas[begin:stop].tolist()]):
            break
    return [canvas[begin:].tolist()]
