"""What quantised weights cost in accuracy, and what they save, on the shipped models.

    python -m benchmarks.bench_quantization [--num-problems 100] [--dtype float32] [--device cpu]

Every kind of weights decodes the same unseen problems with the engine's defaults, or with
``--remasking``. Agreement is with the output of the unquantised weights in the same dtype. The
error of logits is that of the first step's, at all masks of the first block: root mean square of
the difference over the standard deviation of the unquantised logits, and the share of masks where
both have the same likeliest token. Bytes are those that parameters hold. FP8 runs on CUDA only.

As a control, the same matrices are rounded to fewer bits in place: a measure that misses that
would prove nothing.

The shipped models are small: their matrices fit into a CPU's caches, so tokens per second say what
quantisation costs where memory is no bottleneck.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import write_result
from benchmarks.policy_settings import Setting
from benchmarks.policy_study import Problems, Study, numbers
from starr_engine import LLM, SamplingParams
from starr_engine.config import Quantization
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.loading import quantization
from starr_engine.models.loading.quantization import quantizable_weights
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.references import References

MODELS = ("tiny-llada", "tiny-sdar")
CONTROL_BITS = (4, 3)


def round_matrices(llm: LLM, bits: int) -> None:
    """Round what int8 would quantise to a few bits, with a factor per output column."""
    model = llm.engine.executor._model
    for name in quantizable_weights(model):
        weight = model.get_parameter(name).data
        step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_((weight / step).round() * step)


def first_logits(llm: LLM, problems: Problems, count: int) -> Tensor:
    """Logits of the first block's masks of ``count`` problems of each set, in float32."""
    found: list[Tensor] = []
    forward = llm.engine.executor.forward

    @functools.wraps(forward)
    def keeping(batch: StepBatch) -> Tensor:
        logits = forward(batch)
        found.append(logits.float().cpu())
        return logits

    llm.engine.executor.forward = keeping  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=16, block_length=None, cache="none", ignore_eos=True)
    try:
        for each in problems.values():
            for problem in each[:count]:
                ids = llm.engine.add_request(llm.tokenizer.encode(problem.prompt), params)
                llm.engine.step()
                llm.engine.abort(ids)
    finally:
        llm.engine.executor.forward = forward  # type: ignore[method-assign]
    return torch.cat(found)


def logits_error(found: Tensor, expected: Tensor) -> dict[str, float]:
    """How far logits [M, vocab] are from those of the unquantised weights."""
    odds, wanted = found.log_softmax(-1), expected.log_softmax(-1)
    return {
        "relative_rms": float((found - expected).square().mean().sqrt() / expected.std()),
        "largest": float((found - expected).abs().max()),
        "kl_divergence": float((wanted.exp() * (wanted - odds)).sum(-1).mean()),
        "same_likeliest": float((found.argmax(-1) == expected.argmax(-1)).double().mean()),
    }


def measure_model(
    model: str, kinds: Sequence[Quantization], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for every kind of weights and every control; all are compared with the first."""
    problems = {
        set_name: PROBLEM_SETS[set_name].problems("test", args.num_problems, args.seed)
        for set_name in TRAINED_SETS
    }
    setting = Setting(policy=args.remasking)
    rows: list[dict[str, Any]] = []
    references: References | None = None
    expected: Tensor | None = None
    base: dict[str, Any] = {}
    settings: list[tuple[str, Quantization, int | None]] = [(kind, kind, None) for kind in kinds]
    settings += [(f"control, {bits} bits", "none", bits) for bits in CONTROL_BITS]
    for name, kind, control_bits in settings:
        started = time.perf_counter()
        llm = LLM(
            model,
            dtype=args.dtype,
            device=args.device,
            quantization=kind,
            max_num_requests=args.batch_size,
            num_threads=args.threads,
        )
        load_s = time.perf_counter() - started
        if control_bits is not None:
            round_matrices(llm, control_bits)
        study = Study(llm, problems, cache="auto", ignore_eos=False)
        logits = first_logits(llm, problems, args.num_logits)  # warms up, too
        outputs = study.run(setting)
        if references is None or expected is None:
            references, expected = References(by_set=outputs, environment={}), logits
            base = study.outcomes(outputs, references)
        overall, by_set = numbers(study.outcomes(outputs, references), outputs, base)
        row: dict[str, Any] = {
            "model": model,
            "quantization": name,
            "dtype": llm.engine.config.dtype,
            "weight_bytes": llm.engine.weight_bytes,
            "load_s": load_s,
            "logits": logits_error(logits, expected),
            "overall": overall,
            "by_set": by_set,
        }
        rows.append(row)
        print(
            f"{model:10} {name:15} {row['weight_bytes'] / 1e6:6.2f} MB  accuracy "
            f"{overall['accuracy']:.3f}  identical {overall['agreement']:.3f}  tokens "
            f"{overall['token_agreement']:.4f}  logits {row['logits']['relative_rms']:.4f}  "
            f"{overall['tokens_per_s']:7.1f} tokens/s",
            flush=True,
        )
    return rows


def allow_fp8_on_cpu() -> None:
    """Take the checks of the engine and of torchao out of the way, in this process."""
    from torchao.quantization import quant_api

    quantization._problem = lambda *args: None  # type: ignore[assignment]
    quant_api._check_hardware_support = lambda granularity: None


def main() -> None:
    """Measure all models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--num-problems", type=int, default=100, help="of each set")
    parser.add_argument("--num-logits", type=int, default=10, help="of them, for logits")
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--remasking", default="starr")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--fp8-on-cpu",
        action="store_true",
        help="fp8 where the engine refuses it: torch multiplies it on a CPU too, slowly; bfloat16",
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    kinds: list[Quantization] = ["none", "int8"]
    name = "quantization"
    if args.device.startswith("cuda"):
        kinds.append("fp8")
    elif args.fp8_on_cpu:
        kinds, name, args.dtype = ["none", "fp8"], "quantization_fp8", "bfloat16"
        allow_fp8_on_cpu()
    started = time.perf_counter()
    rows = [row for model in args.models for row in measure_model(model, kinds, args)]
    result = {
        "setting": {
            "num_problems": args.num_problems,
            "num_logits": args.num_logits,
            "seed": args.seed,
            "split": "test",
            "remasking": args.remasking,
            "cache": "auto",
            "batch_size": args.batch_size,
            "device": args.device,
            "sets": {name: asdict(PROBLEM_SETS[name]) for name in TRAINED_SETS},
        },
        "wall_s": time.perf_counter() - started,
        "rows": rows,
    }
    write_result(name, result, args.output)


if __name__ == "__main__":
    main()
