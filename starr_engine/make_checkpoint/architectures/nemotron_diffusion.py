"""Nemotron-Labs-Diffusion: the text models of 3B and 8B, which are Ministral models.

Source:
    ``config.json`` of nvidia/Nemotron-Labs-Diffusion-3B and 8B, as quoted in public tests of other
    engines. The tokenizer's files were not to be had: ids of EOS and mask are those of
    ``config.json``, their texts and the chat template are stand-ins.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.architectures.sdar import CHAT_ML
from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "ar_loss_weight": 1.0,
        "architectures": ["NemotronLabsDiffusionModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_implementation": "sdpa",
        "block_size": 32,
        "bos_token_id": 1,
        "dlm_loss_weight": None,
        "dlm_paradigm": "bidirectional",
        "dp_varying_mask_ratio": False,
        "eos_token_id": 11,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "mask_token_id": 100,
        "max_position_embeddings": 262144,
        "mlp_bias": False,
        "model_type": "nemotron_labs_diffusion",
        "num_attention_heads": 32,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_parameters": _rope(16384),
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": 131072,
    } | changes


def _rope(original_length: int) -> dict[str, Any]:
    return {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 16.0,
        "llama_4_scaling_beta": 0.1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": original_length,
        "rope_theta": 1000000.0,
        "rope_type": "yarn",
    }


def _tokens(num_ids: int) -> SpecialTokens:
    ids = {"<s>": 1, "<|im_start|>": 10, "<|im_end|>": 11, "<mask>": 100}
    return SpecialTokens(
        num_ids=num_ids, ids=ids, eos="<|im_end|>", mask="<mask>", bos="<s>", chat_template=CHAT_ML
    )


SIZES: Final = {
    "3b": PublishedModel(
        config=_config(hidden_size=3072, intermediate_size=9216, num_hidden_layers=26),
        tokens=_tokens(131072),
    ),
    "8b": PublishedModel(config=_config(), tokens=_tokens(131072)),
    TINY: PublishedModel(
        config=_config(
            hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, num_hidden_layers=2, max_position_embeddings=256, vocab_size=512,
            rope_parameters=_rope(16),
        ),
        tokens=_tokens(512),
    ),
}  # fmt: skip
