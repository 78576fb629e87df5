"""DiffusionGemma 26B-A4B: the language model; tensors of its vision tower are left out.

Source:
    ``config.json`` and ``generation_config.json`` of google/diffusiongemma-26B-A4B-it as quoted by
    public tests of other engines. The tokenizer's files were not to be had: ids of special tokens
    are those of the two files and of Gemma's published tokenizers, and the chat template makes
    turns as they are shown there, without tools, images and thinking.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

_CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' "
    "+ message['content'] + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"
)


def _text(**changes: Any) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2816,
        "initializer_range": 0.02,
        "intermediate_size": 2112,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "max_position_embeddings": 262144,
        "model_type": "diffusion_gemma_text",
        "moe_intermediate_size": 704,
        "num_attention_heads": 16,
        "num_experts": 128,
        "num_global_key_value_heads": 2,
        "num_hidden_layers": 30,
        "num_key_value_heads": 8,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "full_attention": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
                "rope_type": "proportional",
            },
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "top_k_experts": 8,
        "use_bidirectional_attention": "vision",
        "vocab_size": 262144,
    } | changes


_VISION: Final = {
    "default_output_length": 280,
    "head_dim": 72,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "model_type": "gemma4_vision",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 10240,
    "rms_norm_eps": 1e-06,
    "standardize": True,
    "use_clipped_linears": False,
}


def _config(text: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "boi_token_id": 255999,
        "canvas_length": 256,
        "dtype": "bfloat16",
        "eoi_token_id": 258882,
        "image_token_id": 258880,
        "initializer_range": 0.02,
        "model_type": "diffusion_gemma",
        "text_config": text,
        "tie_word_embeddings": True,
        "vision_config": _VISION,
    } | changes


def _generation(eos: list[int]) -> dict[str, Any]:
    return {
        "bos_token_id": 2,
        "confidence_threshold": 0.005,
        "eos_token_id": eos,
        "max_denoising_steps": 48,
        "max_new_tokens": 256,
        "pad_token_id": 0,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
        "stability_threshold": 1,
        "t_max": 0.8,
        "t_min": 0.4,
    }


def _tokens(num_ids: int, turn: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=num_ids,
        ids={
            "<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<|turn>": turn, "<turn|>": turn + 1,
        },
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        chat_template=_CHAT_TEMPLATE,
    )  # fmt: skip


SIZES: Final = {
    "26b-a4b": PublishedModel(
        config=_config(_text()),
        generation=_generation([1, 106, 50]),
        tokens=_tokens(262144, turn=105),
    ),
    TINY: PublishedModel(
        config=_config(
            _text(
                hidden_size=64, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
                head_dim=16, num_global_key_value_heads=1, global_head_dim=32, num_hidden_layers=3,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                sliding_window=12, num_experts=4, top_k_experts=2, moe_intermediate_size=32,
                max_position_embeddings=512, vocab_size=512,
            ),
            canvas_length=16, boi_token_id=508, eoi_token_id=509, image_token_id=510,
            vision_config=None,
        ),
        generation=_generation([1, 106]),
        tokens=_tokens(512, turn=105),
    ),
}  # fmt: skip
