"""A2D: the small checkpoints of the dLLM project, which are Qwen models without a causal mask.

Source:
    ZHZisZZ/dllm, ``pipelines/a2d``: its ``convert.py`` keeps the configuration of Qwen3-0.6B and
    Qwen2.5-0.5B but for the names of model and architecture. The published ``config.json`` and
    tokenizer files themselves were not to be had: the id of the mask token is the first behind
    those of Qwen's tokenizer, its text that of the project's recipes.
"""

from __future__ import annotations

from typing import Any, Final

from starr_engine.make_checkpoint.architectures.sdar import CHAT_ML
from starr_engine.make_checkpoint.published import TINY, PublishedModel, SpecialTokens


def _qwen3(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["A2DQwen3LMHeadModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "model_type": "a2d-qwen3",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    } | changes


def _qwen2(**changes: Any) -> dict[str, Any]:
    config = _qwen3(
        architectures=["A2DQwen2LMHeadModel"], model_type="a2d-qwen2", hidden_size=896,
        intermediate_size=4864, num_attention_heads=14, num_hidden_layers=24,
        num_key_value_heads=2, max_position_embeddings=32768, max_window_layers=21,
    )  # fmt: skip
    del config["head_dim"], config["attention_bias"]
    return config | changes


def _tokens(first: int, mask: int) -> SpecialTokens:
    return SpecialTokens(
        num_ids=mask + 1,
        ids={
            "<|endoftext|>": first,
            "<|im_start|>": first + 1,
            "<|im_end|>": first + 2,
            "<|mask|>": mask,
        },
        eos="<|im_end|>",
        mask="<|mask|>",
        pad="<|endoftext|>",
        chat_template=CHAT_ML,
    )


SIZES: Final = {
    "qwen3-0.6b": PublishedModel(config=_qwen3(), tokens=_tokens(first=151643, mask=151669)),
    "qwen2.5-0.5b": PublishedModel(config=_qwen2(), tokens=_tokens(first=151643, mask=151665)),
    TINY: PublishedModel(
        config=_qwen3(
            hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, num_hidden_layers=2, max_window_layers=2, max_position_embeddings=256,
            vocab_size=512, bos_token_id=500, eos_token_id=502,
        ),
        tokens=_tokens(first=500, mask=503),
    ),
}  # fmt: skip
