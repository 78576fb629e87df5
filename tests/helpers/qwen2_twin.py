"""Dream's arithmetic as computed by transformers: a Qwen2 that sees in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM


class Qwen2Twin:
    """A transformers Qwen2 with the weights of a Dream checkpoint, whose names are the same.

    Args:
        config: Of the Dream checkpoint.
        tensors: Of the Dream checkpoint.
        dtype: Of weights and activations.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self.model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_hidden_layers=config["num_hidden_layers"],
                num_attention_heads=config["num_attention_heads"],
                num_key_value_heads=config["num_key_value_heads"],
                max_position_embeddings=config["max_position_embeddings"],
                rms_norm_eps=config["rms_norm_eps"],
                rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
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
        """Logits [length, vocabulary] of one sequence, every row seeing every row."""
        nothing_hidden = torch.zeros((1, 1, len(token_ids), len(token_ids)), dtype=self.model.dtype)
        with torch.inference_mode():
            output = self.model(torch.tensor([token_ids]), attention_mask=nothing_hidden)
        logits: Tensor = output.logits[0]
        return logits
