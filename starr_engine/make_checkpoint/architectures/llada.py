"""LLaDA: GSAI-ML/LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5 share one configuration.

Source:
    ``config.json``, ``generation_config.json`` and ``tokenizer_config.json`` of
    GSAI-ML/LLaDA-8B-Instruct, as kept in hxhcreate/DARE and yinj66/support_basis.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

_CHAT_TEMPLATE: Final = (
    "{{ '<|startoftext|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 4096,
        "embedding_dropout": 0.0,
        "embedding_size": 126464,
        "eos_token_id": 126081,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 126336,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 12288,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "pad_token_id": 126081,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": 126464,
        "weight_tying": False,
    } | changes


def _tokens(first: int, header: int, mask: int, num_ids: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=num_ids,
        ids={
            "<|startoftext|>": first,
            "<|endoftext|>": first + 1,
            "<|mdm_mask|>": mask,
            "<|start_header_id|>": header,
            "<|end_header_id|>": header + 1,
            "<|eot_id|>": header + 2,
        },
        eos="<|endoftext|>",
        mask="<|mdm_mask|>",
        pad="<|endoftext|>",
        bos="<|startoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


def _generation(eos: int) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "use_cache": False,
    }


SIZES: Final = {
    "8b": PublishedModel(
        config=_config(),
        tokens=_tokens(first=126080, header=126346, mask=126336, num_ids=126349),
        generation=_generation(126081),
    ),
    TINY: PublishedModel(
        config=_config(
            d_model=64,
            n_heads=4,
            n_kv_heads=4,
            n_layers=2,
            mlp_hidden_size=96,
            embedding_size=512,
            vocab_size=512,
            eos_token_id=501,
            pad_token_id=501,
            mask_token_id=502,
            max_sequence_length=256,
        ),
        tokens=_tokens(first=500, header=503, mask=502, num_ids=506),
        generation=_generation(501),
    ),
}
