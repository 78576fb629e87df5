"""SDAR's arithmetic as computed by transformers: a Qwen3 with a block-causal mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM


class Qwen3Twin:
    """A transformers Qwen3 with the weights of an SDAR checkpoint, whose names are the same.

    Args:
        config: Of the SDAR checkpoint.
        tensors: Of the SDAR checkpoint.
        dtype: Of weights and activations.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self.block_length: int = config["block_size"]
        self.model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_hidden_layers=config["num_hidden_layers"],
                num_attention_heads=config["num_attention_heads"],
                num_key_value_heads=config["num_key_value_heads"],
                head_dim=config["head_dim"],
                max_position_embeddings=config["max_position_embeddings"],
                rms_norm_eps=config["rms_norm_eps"],
                rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
                attention_bias=config["attention_bias"],
                tie_word_embeddings=config["tie_word_embeddings"],
            )
        )
        self.model.set_attn_implementation("eager")
        head = {}
        if config["tie_word_embeddings"]:
            head["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        self.model.load_state_dict(dict(tensors) | head)
        torch.nn.Module.to(self.model, dtype)
        torch.nn.Module.eval(self.model)

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [length, vocabulary] of one sequence."""
        block = torch.arange(len(token_ids)) // self.block_length
        hidden = block[None, :] > block[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype).masked_fill(hidden, -torch.inf)
        with torch.inference_mode():
            output = self.model(torch.tensor([token_ids]), attention_mask=mask[None, None])
        logits: Tensor = output.logits[0]
        return logits
