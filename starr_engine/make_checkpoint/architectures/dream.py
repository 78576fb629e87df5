"""Dream: Dream-v0-Base-7B and -Instruct-7B, and what was trained from them in their format.

Source:
    ``config.json``, ``generation_config.json`` and ``tokenizer_config.json`` of
    Dream-org/Dream-v0-Instruct-7B, as kept in monash-yann/dllm-research.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

_CHAT_TEMPLATE: Final = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "initializer_range": 0.02,
        "intermediate_size": 18944,
        "mask_token_id": 151666,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "model_type": "Dream",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "pad_token_id": 151643,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    } | changes


def _tokens(first: int, begin: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=begin + 2,
        ids={
            "<|endoftext|>": first,
            "<|im_start|>": first + 1,
            "<|im_end|>": first + 2,
            "<|beginoftext|>": begin,
            "<|mask|>": begin + 1,
        },
        eos="<|endoftext|>",
        mask="<|mask|>",
        pad="<|endoftext|>",
        bos="<|beginoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


def _generation(eos: int) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "alg": "origin",
        "alg_temp": None,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "eps": 0.001,
        "mask_token_id": None,
        "output_history": False,
        "pad_token_id": eos,
        "steps": 512,
        "temperature": 0.0,
        "top_k": None,
        "top_p": None,
    }


SIZES: Final = {
    "7b": PublishedModel(
        config=_config(),
        tokens=_tokens(first=151643, begin=151665),
        generation=_generation(151643),
    ),
    TINY: PublishedModel(
        config=_config(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=2,
            max_window_layers=2,
            max_position_embeddings=256,
            vocab_size=512,
            bos_token_id=500,
            eos_token_id=500,
            pad_token_id=500,
            mask_token_id=504,
        ),
        tokens=_tokens(first=500, begin=503),
        generation=_generation(500),
    ),
}
