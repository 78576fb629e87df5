"""``starr-engine info``: what is here, for people and for bug reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import starr_engine
from starr_engine.cli import memory_report
from starr_engine.cli.attention_report import attention_report
from starr_engine.cli.graph_report import graph_report
from starr_engine.cli.options import memory_options
from starr_engine.errors import KernelError

if TYPE_CHECKING:
    from starr_engine.models.base import DiffusionModel, ModelSpec

Report = Mapping[str, object]

SIGHT: Final = {
    "bidirectional": "every row",
    "block_causal": "the rows up to the end of its block",
    "causal_context": "in the active block every row, in front of it what precedes it",
}

_BYTES_PER_VALUE: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument(
        "--model",
        help="also describe this model: a shipped model's name, a folder or a hub id; its weights "
        "are not loaded",
    )
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a hub id (default: main)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    memory_report.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ConfigError: If ``--model`` cannot be used, or another flag not with it.
    """
    memory_report.check_model_is_named(args)
    report = machine_report()
    if args.model is None:
        report = {**report, **attention_report(args, None), **graph_report(args, None)}
    else:
        report = {**report, **model_report(args)}
    print(json.dumps(report, indent=2) if args.json else as_text(report))


def machine_report() -> Report:
    """Versions, compiled parts, devices and everything that has a name."""
    import torch

    from starr_engine.cache.base import CACHE_POLICIES
    from starr_engine.decoding.base import REMASKING_POLICIES
    from starr_engine.decoding.exit.base import EXIT_RULES
    from starr_engine.models.base import MODELS
    from starr_engine.models.loading.locate import shipped_models

    count = torch.cuda.device_count()
    devices = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(count)]
    return {
        "versions": {
            "starr_engine": starr_engine.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "compiled": _compiled(),
        "devices": [f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)", *devices],
        "shipped models": shipped_models(),
        "architectures": MODELS.names(),
        "remasking policies": REMASKING_POLICIES.names(),
        "early exit rules": EXIT_RULES.names(),
        "cache policies": CACHE_POLICIES.names(),
    }


def _compiled() -> Report:
    try:
        from starr_engine import _core  # noqa: F401
        from starr_engine.ops import build_info
    except (ImportError, KernelError) as error:
        return {"problem": str(error)}
    build = build_info()
    return {
        "bookkeeping": "_core",
        "tensor ops": "CPU and CUDA" if build.has_cuda_kernels else "CPU",
        "torch's CUDA": build.torch_cuda_version or "none",
        "vector instructions": build.cpu_capability,
    }


def model_report(args: argparse.Namespace) -> Report:
    """A model's shape and what its cache costs, from its configuration alone.

    Raises:
        ConfigError: If it cannot be found or is not supported, or a flag does not suit it.
    """
    from starr_engine.models.loading.loader import build_model
    from starr_engine.models.loading.locate import resolve_model

    folder = resolve_model(args.model, args.revision)
    built = build_model(folder, mask_block_length=args.mask_block_length)
    spec = built.spec
    num_parameters = sum(weight.numel() for weight in built.parameters())
    num_active = num_parameters - built.num_idle_parameters
    model = {
        "name": args.model,
        "folder": str(folder),
        "architecture": spec.architecture,
        "parameters": num_parameters,
        **({} if num_active == num_parameters else {"parameters that a row uses": num_active}),
        "weight bytes": _weight_bytes(built),
        "layers": spec.num_layers,
        "hidden size": spec.hidden_size,
        "heads": _heads_line(spec),
        "vocabulary": spec.vocab_size - (spec.noise == "uniform"),
        "attention": spec.attention_kind,
        "a row sees": SIGHT[spec.attention_kind],
        **_block_lines(spec),
        "logits": _logits_line(spec),
        "longest request": f"{spec.max_model_len} tokens, prompt included",
        "mask token id": spec.mask_token_id if spec.noise == "mask" else "none: noise is drawn",
        "EOS token ids": list(spec.eos_token_ids),
        "KV bytes per token": {
            name: spec.kv_values_per_row * size for name, size in _BYTES_PER_VALUE.items()
        },
    }
    advice = recommended(args.model, built)
    return {
        "model": model,
        **_rank_report(built, args),
        "recommended settings": advice,
        **attention_report(args, built),
        **graph_report(args, built),
        **memory_report.memory_report(built, args),
    }


def _rank_report(model: DiffusionModel, args: argparse.Namespace) -> Report:
    """What the rank with the most has to hold; ``model`` is that rank's from then on."""
    from starr_engine.config import EngineConfig
    from starr_engine.layers.ranks import Ranks

    count = EngineConfig.from_options(**memory_options(args)).tensor_parallel_size
    if count == 1:
        return {}
    model.split(Ranks(rank=count - 1, count=count))
    spec = model.spec_here
    values = spec.kv_values_per_row
    heads = f"{spec.num_heads} of {spec.head_dim}, {spec.num_kv_heads} for keys and values"
    return {
        f"each of {count} ranks": {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "weight bytes": _weight_bytes(model, with_quantized=False),
            "heads": heads,
            "KV bytes per token": {name: values * size for name, size in _BYTES_PER_VALUE.items()},
        }
    }


def _weight_bytes(model: DiffusionModel, *, with_quantized: bool = True) -> Report:
    """By dtype, and by what ``quantization`` may be where the model can be quantised."""
    import torch

    from starr_engine.config import Quantization
    from starr_engine.models.loading.quantization import can_be_quantized, expected_weight_bytes

    forms: list[tuple[str, torch.dtype, Quantization]] = [
        ("float32", torch.float32, "none"),
        ("bfloat16", torch.bfloat16, "none"),
    ]
    if with_quantized and can_be_quantized(model):
        forms += [
            ("int8 and float32", torch.float32, "int8"),
            ("int8 and bfloat16", torch.bfloat16, "int8"),
            ("fp8 and bfloat16", torch.bfloat16, "fp8"),
        ]
    return {name: expected_weight_bytes(model, dtype, kind) for name, dtype, kind in forms}


def _block_lines(spec: ModelSpec) -> Report:
    if spec.block_length is None:
        return {}
    assumed = " (assumed: no file says it)" if spec.block_length_is_assumed else ""
    name = "rows of an attention block" if spec.mask_block != 1 else "block length"
    lines: dict[str, object] = {
        name: f"{spec.block_length}{assumed}" if assumed else spec.block_length
    }
    if spec.sub_block_length is not None:
        lines["decoded in sub-blocks of"] = spec.sub_block_length
    return lines


def _heads_line(spec: ModelSpec) -> str:
    """Of every kind of layer, the most frequent first."""
    kinds = Counter(spec.shapes).most_common()
    lines = [
        f"{spec.num_heads} of {shape.head_dim}, {shape.num_kv_heads} for keys and values"
        + ("" if shape.window is None else f", a window of {shape.window}")
        for shape, _ in kinds
    ]
    if len(kinds) == 1:
        return lines[0]
    return "; ".join(f"{line} ({count})" for line, (_, count) in zip(lines, kinds, strict=True))


def _logits_line(spec: ModelSpec) -> str:
    if spec.logits_shift:
        return "of a position come from the row in front of it"
    if spec.seeds_block:
        return "of a block's first position come from the row in front of it, the others' are own"
    return "of a position are its own"


def recommended(name: str, model: DiffusionModel) -> Report:
    """What to start from, and why."""
    from starr_engine.models.loading.locate import shipped_models

    spec = model.spec
    cache = "cache auto, which is block_causal: exact, and shares prefixes between requests"
    if spec.mask_block is None:
        cache = (
            "cache auto, which is dual: approximate; it kept the accuracy of no cache on the "
            "shipped models (docs/caches.md); cache none is exact"
        )
    remasking = (
        "remasking starr, the default; its settings were not measured on this model: "
        "`starr-engine calibrate` finds them on your prompts"
    )
    if name in shipped_models():
        remasking = "remasking starr, the default; calibrated on this model (docs/calibration.md)"
    lines: dict[str, object] = {"to begin with": f"{remasking}; {cache}"}
    published = model.published_decoding
    if published is not None:
        written = ", ".join(f"{field}={value!r}" for field, value in published.params.items())
        lines["as its authors decode"] = f"{written} ({published.source})"
    if spec.generation_defaults:
        lines["asked for by generation_config.json"] = dict(spec.generation_defaults)
    return lines


def as_text(report: Report) -> str:
    """The report as lines."""
    return "\n".join(_lines(report, ""))


def _lines(report: Report, indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in report.items():
        if isinstance(value, Mapping) and not indent:
            lines += [f"{name}:", *_lines(value, "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{name}:", *_table(value)]
        else:
            lines.append(f"{indent}{name}: {_text(value)}")
    return lines


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    ]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{entry} ({name})" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and value > 99_999 else str(value)
