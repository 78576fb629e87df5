"""LLaDA's arithmetic as computed by transformers: a Llama that sees in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA_NAMES = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
"""Parameters of a layer: LLaDA's name -> that of Llama and its descendants."""

_TOP_NAMES = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


class LlamaTwin:
    """A transformers Llama with the weights of a LLaDA checkpoint.

    Args:
        config: Of the LLaDA checkpoint; biases of norms have no counterpart.
        tensors: Of the LLaDA checkpoint.
        dtype: Of weights and activations.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config["embedding_size"],
                hidden_size=config["d_model"],
                intermediate_size=config["mlp_hidden_size"],
                num_hidden_layers=config["n_layers"],
                num_attention_heads=config["n_heads"],
                num_key_value_heads=config["n_kv_heads"],
                max_position_embeddings=config["max_sequence_length"],
                rms_norm_eps=config["rms_norm_eps"],
                rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
                attention_bias=config["include_bias"],
                mlp_bias=config["include_bias"],
                tie_word_embeddings=config["weight_tying"],
            )
        )
        self.model.set_attn_implementation("eager")
        renamed = {_llama_name(name): tensor for name, tensor in tensors.items()}
        if config["weight_tying"]:
            renamed["lm_head.weight"] = renamed["model.embed_tokens.weight"]
        self.model.load_state_dict(renamed)
        torch.nn.Module.to(self.model, dtype)
        torch.nn.Module.eval(self.model)

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [length, vocabulary] of one sequence."""
        length = len(token_ids)
        nothing_hidden = torch.zeros((1, 1, length, length), dtype=self.model.dtype)
        with torch.inference_mode():
            output = self.model(torch.tensor([token_ids]), attention_mask=nothing_hidden)
        logits: Tensor = output.logits[0]
        return logits


def _llama_name(name: str) -> str:
    parts = name.removeprefix("model.transformer.").split(".")
    if parts[0] == "blocks":
        return f"model.layers.{parts[1]}.{LLAMA_NAMES[parts[2]]}.{parts[3]}"
    return f"{_TOP_NAMES[parts[0]]}.{parts[1]}"
