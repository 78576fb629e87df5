"""Stand-ins for installed originals: what their loops call, in as few lines as that takes."""

from __future__ import annotations

from pathlib import Path

LLADA = """
import torch


def generate(model, prompt, attention_mask=None, steps=8, gen_length=8, block_length=8,
             temperature=0.0, cfg_scale=0.0, remasking="low_confidence", mask_id=0):
    assert (temperature, remasking) == (0.0, "low_confidence")
    x = torch.cat([prompt, torch.full((1, gen_length), mask_id)], dim=1)
    pace = gen_length // steps
    for start in range(prompt.shape[1], x.shape[1], block_length):
        rows = slice(start, start + block_length)
        while (x[:, rows] == mask_id).any():
            p, token = model(x, attention_mask=attention_mask).logits[0, rows].softmax(-1).max(-1)
            best = p.masked_fill(x[0, rows] != mask_id, -1).topk(pace).indices
            x[0, rows][best] = token[best]
    return x
"""

FAST_DLLM = """
import torch
from neighbour import pick


def loop(model, prompt, gen_length, block_length, mask_id, threshold, dual):
    x, nfe = torch.cat([prompt, torch.full((1, gen_length), mask_id)], dim=1), 0
    for start in range(prompt.shape[1], x.shape[1], block_length):
        end = start + block_length
        out = model(x, use_cache=True)
        past = out.past_key_values
        pick(x, out.logits[0, start:end], start, end, mask_id, threshold)
        nfe += 1
        if not dual:
            past = [tuple(part[:, :, :start] for part in layer) for layer in past]
        where = torch.zeros_like(x, dtype=torch.bool)
        where[:, start:end] = True
        more = {"replace_position": where} if dual else {}
        while (x[:, start:end] == mask_id).any():
            rows = x[:, start : end if dual else None]
            logits = model(rows, past_key_values=past, use_cache=True, **more).logits
            pick(x, logits[0, :block_length], start, end, mask_id, threshold)
            nfe += 1
    return x, nfe


def generate_with_prefix_cache(model, prompt, steps=8, gen_length=8, block_length=8,
                               temperature=0.0, remasking="", mask_id=0, threshold=None):
    return loop(model, prompt, gen_length, block_length, mask_id, threshold, False)


def generate_with_dual_cache(model, prompt, steps=8, gen_length=8, block_length=8,
                             temperature=0.0, remasking="", mask_id=0, threshold=None):
    return loop(model, prompt, gen_length, block_length, mask_id, threshold, True)
"""

NEIGHBOUR = """
def pick(x, logits, start, end, mask_id, threshold):
    p, token = logits.softmax(-1).max(-1)
    p = p.masked_fill(x[0, start:end] != mask_id, -1)
    chosen = p >= threshold
    chosen[p.argmax()] = True
    x[0, start:end][chosen] = token[chosen]
"""

SDAR = '''
import torch
from transformers.cache_utils import DynamicCache


def block_diffusion_generate(model, prompt, mask_id, gen_length=8, block_length=8,
                             denoising_steps=8, temperature=1.0, top_k=0, top_p=1.0,
                             remasking_strategy="", confidence_threshold=0.85, eb_threshold=None,
                             stopping_criteria_idx=None):
    """Greedy, unlike the original, so that its tokens can be compared."""
    ids, cache, b = prompt["input_ids"], DynamicCache(), block_length
    x = torch.cat([ids, torch.full((1, gen_length), mask_id)], dim=1)
    block = torch.arange(x.shape[1]) // b
    sees = (block[None, :] <= block[:, None]).float()[None]
    where = torch.arange(x.shape[1])[None]

    def run(first, stop, store):
        return model(x[:, first:stop], attention_mask=sees[:, first:stop, :stop],
                     position_ids=where[:, first:stop], past_key_values=cache, use_cache=True,
                     store_kv=store).logits

    filled = ids.shape[1] // b * b
    if filled:
        run(0, filled, True)
    for start in range(filled, x.shape[1], b):
        rows = x[0, start : start + b]
        while (rows == mask_id).any():
            p, token = run(start, start + b, False)[0].softmax(-1).max(-1)
            p = p.masked_fill(rows != mask_id, -1)
            chosen = p > confidence_threshold
            if not chosen.any():
                chosen[p.argmax()] = True
            rows[chosen] = token[chosen]
        run(start, start + b, True)
    return x
'''


def write_originals(folder: Path) -> dict[str, Path]:
    """Folder of each, laid out as its repository is."""
    files = {
        "llada/generate.py": LLADA,
        "fast_dllm/v1/llada/generate.py": FAST_DLLM,
        "fast_dllm/v1/llada/neighbour.py": NEIGHBOUR,
        "sdar/generate.py": SDAR,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {name: folder / name for name in ("llada", "fast_dllm", "sdar")}
