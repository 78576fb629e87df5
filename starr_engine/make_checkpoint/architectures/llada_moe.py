"""LLaDA-MoE: inclusionAI/LLaDA-MoE-7B-A1B-Base and -Instruct share one configuration.

Source:
    Fields and the norm's epsilon: ``configuration_lladamoe.py``, as kept in ZHZisZZ/dllm-trainer
    and inclusionAI/dInfer. Sizes and rotary base: arXiv 2509.24389, table 2; the 7,356,880,896
    parameters of the published weights then leave one size of the vocabulary, no shared experts
    and no biases. The file itself was not seen.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<role>' + ('HUMAN' if message['role'] == 'user' else message['role'] | upper) "
    "+ '</role>' + message['content'] + '<|role_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)


def _config(num_layers: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LLaDAMoEModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "eos_token_id": 156892,
        "expert_intermediate_size": 1024,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "max_position_embeddings": 8192,
        "model_type": "llada",
        "moe_layer_freq": [1] * num_layers,
        "moe_router_enable_expert_bias": False,
        "moe_router_score_function": "softmax",
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": 16,
        "output_router_logits": False,
        "pad_token_id": 156892,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 50000,
        "router_aux_loss_coef": 0.01,
        "shared_expert_intermediate_size": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": 157184,
    } | changes


def _tokens(eos: int, num_ids: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=num_ids,
        ids={"<|endoftext|>": eos, "<|mask|>": eos + 3},
        eos="<|endoftext|>",
        mask="<|mask|>",
        pad="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


SIZES: Final = {
    "7b-a1b": PublishedModel(config=_config(16), tokens=_tokens(eos=156892, num_ids=157184)),
    TINY: PublishedModel(
        config=_config(
            2, hidden_size=64, num_attention_heads=4, num_key_value_heads=4, num_experts=8,
            num_experts_per_tok=2, expert_intermediate_size=32, max_position_embeddings=256,
            vocab_size=512, eos_token_id=500, pad_token_id=500,
        ),
        tokens=_tokens(eos=500, num_ids=504),
    ),
}  # fmt: skip
