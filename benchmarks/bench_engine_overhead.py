"""What the engine costs per step beyond the forwards themselves.

The bare loop is what one would write without an engine: dense [batch, length] tensors, prompts of
one length, the same weights, the same rows computed and scored at the same steps (so the same
NFE), arg-max and top-1 by torch, and no bookkeeping. The engine runs the same requests through
scheduling, plan checks, ragged batches and pages. Outputs are compared before anything is timed.
Two models: a shipped one, whose forwards are so short that the engine's cost shows most, and a
random one of about 50 M parameters.

    python -m benchmarks.bench_engine_overhead [--model tiny-llada] [--model random] [--repeats 10]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.harness import summary, time_calls, write_result
from benchmarks.random_model import write_random_model
from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import load_model
from starr_engine.models.loading.locate import resolve_model

PROMPT_LEN, MAX_TOKENS, BLOCK_LENGTH = 48, 64, 32
RANDOM = "random"
"""Stands for the random model; its results go to a file of their own."""

CACHES = {RANDOM: ("dual",)}
"""Without a cache the random model would take hours and tell the same."""


@dataclass
class DenseAttention:
    """Attention over [batch, length] with dense per-layer keys and values."""

    batch: int
    keeps: bool
    block: slice | None = None
    kv: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``LayerAttention``; a block step replaces the block's keys and values first."""
        q, k, v = (
            rows.unflatten(0, (self.batch, -1)).transpose(1, 2) for rows in (query, key, value)
        )
        if self.block is not None:
            keys, values = self.kv[layer]
            keys[:, :, self.block], values[:, :, self.block] = k, v
            k, v = keys, values
        elif self.keeps:
            self.kv[layer] = (k.clone(), v.clone())
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


@torch.inference_mode()
def bare_loop(model: DiffusionModel, prompts: Tensor, *, dual: bool) -> Tensor:
    """One token per step, block by block: [batch, PROMPT_LEN] -> [batch, MAX_TOKENS]."""
    batch, mask = len(prompts), model.spec.mask_token_id
    canvas = torch.full((batch, PROMPT_LEN + MAX_TOKENS), mask)
    canvas[:, :PROMPT_LEN] = prompts
    everything = torch.arange(canvas.shape[1])
    for start in range(PROMPT_LEN, canvas.shape[1], BLOCK_LENGTH):
        attention = DenseAttention(batch=batch, keeps=dual)
        for step in range(BLOCK_LENGTH):
            block_only = dual and step > 0
            rows = everything[start : start + BLOCK_LENGTH] if block_only else everything
            attention.block = slice(start, start + BLOCK_LENGTH) if block_only else None
            hidden = model(canvas[:, rows].flatten(), rows.repeat(batch), attention)
            offset = 0 if block_only else start
            hidden = hidden.unflatten(0, (batch, -1))[:, offset : offset + BLOCK_LENGTH]
            block = canvas[:, start : start + BLOCK_LENGTH]
            masked = block == mask
            logits = model.compute_logits(hidden[masked])
            logits[:, mask] = -torch.inf
            top, token = logits.softmax(-1).max(-1)
            confidence = torch.full(masked.shape, -1.0).masked_scatter(masked, top)
            tokens = torch.zeros(masked.shape, dtype=torch.int64).masked_scatter(masked, token)
            best = confidence.argmax(1, keepdim=True)
            block.scatter_(1, best, tokens.gather(1, best))
    return canvas[:, PROMPT_LEN:]


def compare(
    llm: LLM, model: DiffusionModel, ids: Tensor, cache: str, repeats: int
) -> dict[str, object]:
    """Time both on the same prompts, in turns, so that both meet the same disturbances."""
    prompts = [{"prompt_token_ids": row.tolist()} for row in ids]
    params = SamplingParams(
        max_tokens=MAX_TOKENS,
        block_length=BLOCK_LENGTH,
        cache=cache,
        remasking="low_confidence",
        ignore_eos=True,
    )

    def run_engine() -> list[RequestOutput]:
        return llm.generate(prompts, params)

    def run_bare() -> Tensor:
        return bare_loop(model, ids, dual=cache == "dual")

    outputs, bare = run_engine(), run_bare()
    same = sum(list(a.token_ids) == b.tolist() for a, b in zip(outputs, bare, strict=True))
    assert all(output.nfe == MAX_TOKENS for output in outputs)
    if same < len(ids):
        print(f"warning: {len(ids) - same} outputs differ from the bare loop")
    engine_s, bare_s = [], []
    for _ in range(repeats):
        engine_s += time_calls(run_engine, repeats=1, warmup=0)
        bare_s += time_calls(run_bare, repeats=1, warmup=0)
    engine, loop = summary(engine_s), summary(bare_s)
    row = {
        "batch": len(ids),
        "cache": cache,
        "nfe": MAX_TOKENS,
        "same_outputs": same,
        "engine_step_ms": 1e3 * engine["median_s"] / MAX_TOKENS,
        "bare_step_ms": 1e3 * loop["median_s"] / MAX_TOKENS,
        "overhead": engine["median_s"] / loop["median_s"] - 1,
        "engine": engine | {"samples_s": engine_s},
        "bare_loop": loop | {"samples_s": bare_s},
    }
    print(
        f"batch {len(ids):2}  cache {cache:4}  engine {row['engine_step_ms']:7.2f} ms/step  "
        f"bare loop {row['bare_step_ms']:7.2f} ms/step  overhead {row['overhead']:+.1%}"
    )
    return row


def run_model(name: str, folder: Path, args: argparse.Namespace) -> None:
    """Compare at batch 1 and 16, with every cache, and write the result."""
    model_name = str(folder) if name == RANDOM else name
    # Every run makes all of its forwards, equal canvases or not.
    llm = LLM(model_name, device="cpu", dtype="float32", max_num_requests=16, canvas_cache=0)
    model = load_model(resolve_model(model_name), torch.device("cpu"), torch.float32)
    spec = model.spec
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, spec.vocab_size, (16, PROMPT_LEN), generator=generator)
    ids[ids == spec.mask_token_id] = (spec.mask_token_id + 1) % spec.vocab_size
    rows = [
        compare(llm, model, ids[:batch], cache, args.repeats)
        for batch in (1, 16)
        for cache in CACHES.get(name, ("none", "dual"))
    ]
    setting = {
        "model": name,
        "num_parameters": llm.engine.num_parameters,
        "prompt_len": PROMPT_LEN,
        "max_tokens": MAX_TOKENS,
        "block_length": BLOCK_LENGTH,
        "remasking": "low_confidence",
        "repeats": args.repeats,
    }
    file = "engine_overhead_50m" if name == RANDOM else "engine_overhead"
    output = None if args.output is None else args.output / f"{file}.json"
    write_result(file, {"setting": setting, "rows": rows}, output)


def main() -> None:
    """One model after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--model", action="append", help="a shipped one, or random (default: tiny-llada, random)"
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--tiny", action="store_true", help="tiny random model, to try this out")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: benchmarks/results")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        for model in args.model or ["tiny-llada", RANDOM]:
            folder = Path(name)
            if model == RANDOM:
                length = PROMPT_LEN + MAX_TOKENS
                folder = write_random_model(folder, length=length, tiny=args.tiny)
            run_model(model, folder, args)


if __name__ == "__main__":
    main()
