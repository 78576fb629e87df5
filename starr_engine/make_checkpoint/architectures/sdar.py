"""SDAR: the dense models of JetLM, which are Qwen3 models with a block-causal mask.

Source:
    ``config.json`` of JetLM/SDAR-1.7B-Chat, as kept in hxhcreate/DARE; the sizes of 4B and 8B are
    those of Qwen3-4B and Qwen3-8B (the configuration of Qwen3 in transformers), from which they
    were trained. Ids of the special tokens: the tokenizer of Qwen3.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

CHAT_ML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The turns of Qwen's models."""


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_implementation": "flex_attention",
        "block_size": 4,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "fuse_cross_entropy": True,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 6144,
        "mask_token_id": 151669,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "sdar",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    } | changes


def _tokens(first: int, mask: int, num_ids: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=num_ids,
        ids={
            "<|endoftext|>": first,
            "<|im_start|>": first + 1,
            "<|im_end|>": first + 2,
            "<|MASK|>": mask,
        },
        eos="<|im_end|>",
        mask="<|MASK|>",
        pad="<|endoftext|>",
        chat_template=CHAT_ML,
    )


_TOKENS: Final = _tokens(first=151643, mask=151669, num_ids=151670)

SIZES: Final = {
    "1.7b": PublishedModel(config=_config(), tokens=_TOKENS),
    "4b": PublishedModel(
        config=_config(
            hidden_size=2560, intermediate_size=9728, num_attention_heads=32, num_hidden_layers=36,
            max_window_layers=36,
        ),
        tokens=_TOKENS,
    ),
    "8b": PublishedModel(
        config=_config(
            hidden_size=4096, intermediate_size=12288, num_attention_heads=32,
            num_hidden_layers=36, max_window_layers=36,
        ),
        tokens=_TOKENS,
    ),
    TINY: PublishedModel(
        config=_config(
            hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, num_hidden_layers=2, max_window_layers=2, max_position_embeddings=256,
            vocab_size=512, bos_token_id=500, eos_token_id=500, mask_token_id=503,
        ),
        tokens=_tokens(first=500, mask=503, num_ids=504),
    ),
}  # fmt: skip
