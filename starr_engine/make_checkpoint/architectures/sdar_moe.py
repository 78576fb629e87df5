"""SDAR with mixtures of experts: JetLM/SDAR-30B-A3B-Chat and -Sci.

Source:
    Fields: ``configuration_sdar_moe.py`` of JetLM/SDAR-30B-A3B-Chat, as kept in
    linyewei526/dLLM-ARIS-1, and what the dense checkpoints have. Sizes: those of Qwen3-30B-A3B,
    from which it was trained, as in scripts/models/qwen3-30B-A3B.sh of zyzshishui/slime.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.architectures import sdar
from starr_engine.make_checkpoint.published import TINY, PublishedModel


def _config(dense: PublishedModel, **changes: Any) -> dict[str, Any]:
    return (
        dict(dense.config)
        | {
            "architectures": ["SDARMoeForCausalLM"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "model_type": "sdar_moe",
            "norm_topk_prob": True,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }
        | changes
    )


SIZES: Final = {
    "30b-a3b": PublishedModel(
        config=_config(
            sdar.SIZES["1.7b"], num_attention_heads=32, num_key_value_heads=4,
            num_hidden_layers=48, max_window_layers=48, num_experts=128, num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
        tokens=sdar.SIZES["1.7b"].tokens,
    ),
    TINY: PublishedModel(
        config=_config(
            sdar.SIZES[TINY], num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32,
        ),
        tokens=sdar.SIZES[TINY].tokens,
    ),
}  # fmt: skip
