"""Random checkpoints of a stated size, for what depends on a model's shape but not its weights."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, write_sdar_checkpoint

HEAD_DIM = 64


def write_models(
    folder: Path, *, width: int, layers: int, vocab: int, length: int, block: int
) -> dict[str, Path]:
    """One bidirectional and one block-causal checkpoint of equal size, in the published formats.

    Args:
        folder: Where they go.
        width: Hidden size, a multiple of 64; the feed-forward part is 2.7 times as wide.
        layers: Of each.
        vocab: Vocabulary.
        length: Longest canvas.
        block: Block length of the block-causal mask.

    Returns:
        Folder of ``bidirectional`` and of ``block_causal``.
    """
    inner = round(2.7 * width / HEAD_DIM) * HEAD_DIM
    heads = width // HEAD_DIM
    llada = llada_config(
        d_model=width, n_heads=heads, n_kv_heads=heads, n_layers=layers, mlp_hidden_size=inner,
        vocab_size=vocab, embedding_size=vocab, max_sequence_length=length,
    )  # fmt: skip
    sdar = sdar_config(
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads,
        head_dim=HEAD_DIM, num_hidden_layers=layers, max_window_layers=layers,
        intermediate_size=inner, vocab_size=vocab, max_position_embeddings=length,
        block_size=block,
    )  # fmt: skip
    return {
        "bidirectional": write_checkpoint(folder / "bidirectional", llada),
        "block_causal": write_sdar_checkpoint(folder / "block_causal", sdar),
    }
