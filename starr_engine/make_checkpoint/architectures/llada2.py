"""LLaDA2.0 and 2.1, mini and flash, which share one format.

Source:
    ``configs/model_configs`` of inclusionAI/dFactory, with the ``model_type`` of the models on the
    hub, whose experts are not merged; 2.1 differs in the longest canvas. The files name no mask and
    no ending token: the ids are those of the published ``generate``, and of LLaDA2.2's stop tokens.
    Ids behind the last one named here are not known.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

_CHAT_TEMPLATE: Final = (
    "{% set names = {'system': 'SYSTEM', 'user': 'HUMAN', 'assistant': 'ASSISTANT'} %}"
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<role>SYSTEM</role>detailed thinking off<|role_end|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<role>' + names[message['role']] + '</role>' + message['content'] + '<|role_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LLaDA2MoeModelLM"],
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "first_k_dense_replace": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "llada2_moe",
        "moe_intermediate_size": 512,
        "moe_router_enable_expert_bias": True,
        "n_group": 8,
        "norm_head": False,
        "norm_softmax": False,
        "norm_topk_prob": True,
        "num_attention_heads": 16,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 20,
        "num_key_value_heads": 4,
        "num_shared_experts": 1,
        "output_dropout": 0.0,
        "output_router_logits": False,
        "pad_token_id": 156892,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 600000,
        "rotary_dim": 64,
        "routed_scaling_factor": 2.5,
        "router_dtype": "fp32",
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "use_cache": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "use_sliding_window": False,
        "using_split_qkv_in_self_attention": False,
        "vocab_size": 157184,
    } | changes


def _flash(**changes: Any) -> dict[str, Any]:
    return _config(
        hidden_size=4096,
        intermediate_size=9216,
        moe_intermediate_size=1024,
        num_attention_heads=32,
        num_hidden_layers=32,
        **changes,
    )


def _tokens(eos: int, mask: int, role_end: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=role_end + 1,
        ids={"<|endoftext|>": eos, "<|mask|>": mask, "<|role_end|>": role_end},
        eos="<|endoftext|>",
        mask="<|mask|>",
        pad="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


_TOKENS: Final = _tokens(eos=156892, mask=156895, role_end=156900)
_SHORT: Final = {"max_position_embeddings": 16384}

SIZES: Final = {
    "2.0-mini": PublishedModel(config=_config(**_SHORT), tokens=_TOKENS),
    "2.0-flash": PublishedModel(config=_flash(**_SHORT), tokens=_TOKENS),
    "2.1-mini": PublishedModel(config=_config(), tokens=_TOKENS),
    "2.1-flash": PublishedModel(config=_flash(), tokens=_TOKENS),
    TINY: PublishedModel(
        config=_config(
            hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, rotary_dim=8, num_hidden_layers=2, moe_intermediate_size=32, num_experts=8,
            num_experts_per_tok=2, n_group=4, topk_group=2, max_position_embeddings=256,
            vocab_size=512, pad_token_id=500, eos_token_id=500, mask_token_id=501,
        ),
        tokens=_tokens(eos=500, mask=501, role_end=502),
    ),
}  # fmt: skip
