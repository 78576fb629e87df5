"""The weights that training of tiny-sdar starts from: those of the shipped tiny-llada."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import starr_engine
from tools.train_tiny.data import BatchMaker
from tools.train_tiny.llada.format import load_model
from tools.train_tiny.llada.model import Block, TinyLLaDA
from tools.train_tiny.sdar.model import Layer, TinySDAR

SOURCE: Final = Path(starr_engine.__file__).parent / "assets" / "tiny-llada"
_TASKS: Final = ("word_problems", "chains", "few", "code", "json_extraction")
_SEED: Final = 1


def warm_start(model: TinySDAR, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set all weights of ``model``.

    All but two are copies. The source has no norms of queries and keys: theirs become the root
    mean square that queries and keys have in the source over a batch of each task, so that
    scores of attention start with the spread they had.
    """
    source = load_model(SOURCE)
    sizes = _query_key_sizes(source, tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(source.wte.weight)
        model.model.norm.weight.copy_(source.ln_f.weight)
        for layer, block, (query, key) in zip(
            model.model.layers, source.blocks, sizes, strict=True
        ):
            assert isinstance(layer, Layer)
            assert isinstance(block, Block)
            attention, mlp = layer.self_attn, layer.mlp
            pairs: list[tuple[nn.Module, nn.Module]] = [
                (layer.input_layernorm, block.attn_norm),
                (layer.post_attention_layernorm, block.ff_norm),
                (attention.q_proj, block.q_proj),
                (attention.k_proj, block.k_proj),
                (attention.v_proj, block.v_proj),
                (attention.o_proj, block.attn_out),
                (mlp.gate_proj, block.ff_proj),
                (mlp.up_proj, block.up_proj),
                (mlp.down_proj, block.ff_out),
            ]
            for mine, theirs in pairs:
                mine.load_state_dict(theirs.state_dict())
            attention.q_norm.weight.fill_(query)
            attention.k_norm.weight.fill_(key)


@torch.inference_mode()
def _query_key_sizes(
    source: TinyLLaDA, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[float, float]]:
    """Return the root mean square of queries and of keys per layer."""
    seen: list[list[Tensor]] = []

    def note(squares: list[Tensor]) -> None:
        seen.append(squares)

    hooks, squares = [], {}
    for block in source.blocks:
        assert isinstance(block, Block)
        for linear in (block.q_proj, block.k_proj):
            squares[linear] = list[Tensor]()
            hooks.append(
                linear.register_forward_hook(
                    lambda module, _, output: squares[module].append(output.pow(2).mean())
                )
            )
    batches = BatchMaker(tokenizer, _SEED, 1.0)
    for task in _TASKS:
        source.hidden(batches.draw(task, 1000, 0.5).ids)
    for hook in hooks:
        hook.remove()
    sizes = [float(torch.stack(values).mean().sqrt()) for values in squares.values()]
    return list(zip(sizes[::2], sizes[1::2], strict=True))
