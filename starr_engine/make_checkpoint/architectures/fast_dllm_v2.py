"""Fast-dLLM v2: Efficient-Large-Model/Fast_dLLM_v2_1.5B and 7B, which are Qwen2.5 models.

Source:
    The modelling file of Fast_dLLM_v2_7B, as kept in Satgoy152/DualDiffusion, and the recipe of a
    public conversion script for ``config.json``: the fields of Qwen2.5-1.5B-Instruct and
    Qwen2.5-7B-Instruct with ``bd_size`` and another architecture. The published ``config.json``
    itself was not to be had.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.architectures.sdar import CHAT_ML
from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens


def _config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "attention_dropout": 0.0,
        "bd_size": 32,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "initializer_range": 0.02,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "Fast_dLLM_Qwen",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 152064,
    } | changes
    return config | {"layer_types": ["full_attention"] * config["num_hidden_layers"]}


def _tokens(first: int, mask: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=mask + 1,
        ids={
            "<|endoftext|>": first,
            "<|im_start|>": first + 1,
            "<|im_end|>": first + 2,
            "|<MASK>|": mask,
        },
        eos="<|im_end|>",
        pad="<|endoftext|>",
        chat_template=CHAT_ML,
    )


SIZES: Final = {
    "1.5b": PublishedModel(
        config=_config(
            hidden_size=1536, intermediate_size=8960, num_attention_heads=12, num_key_value_heads=2,
            tie_word_embeddings=True, vocab_size=151936,
        ),
        tokens=_tokens(first=151643, mask=151665),
    ),
    "7b": PublishedModel(config=_config(), tokens=_tokens(first=151643, mask=151665)),
    TINY: PublishedModel(
        config=_config(
            hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            num_hidden_layers=2, max_window_layers=2, max_position_embeddings=256, vocab_size=512,
            bos_token_id=500, eos_token_id=502,
        ),
        tokens=_tokens(first=500, mask=503),
    ),
}  # fmt: skip
