"""Memory and time of loading a sharded checkpoint of a few GB.

    python -m benchmarks.bench_load_memory [--arch sdar --size 1.7b] [--dtype bfloat16 float32]
        [--quantization none int8]

Writes a random checkpoint in bfloat16, in shards of 1 GB, into a temporary folder, and loads it in
a fresh process for each dtype. The peak is the kernel's own count (VmHWM), with every page of a
mapped file that is in memory; what the interpreter and its packages take is measured
before the model is built, and subtracted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import write_result
from starr_engine.make_checkpoint.published import ARCHITECTURES, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint

GB = 10**9

_LOAD = """
import json, sys, time
from pathlib import Path
import torch
from starr_engine.models.loading.loader import load_model
from starr_engine.models.loading.quantization import held_weight_bytes

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

torch.zeros(1)
if sys.argv[3] != "none":
    import torchao.quantization
before = kilobytes("VmRSS")
start = time.perf_counter()
model = load_model(
    Path(sys.argv[1]), torch.device("cpu"), getattr(torch, sys.argv[2]), quantization=sys.argv[3]
)
seconds = time.perf_counter() - start
weights = held_weight_bytes(model)
peak = (kilobytes("VmHWM") - before) * 1024
print(json.dumps({"seconds": seconds, "weights_bytes": weights, "peak_bytes": peak}))
"""


def measure(folder: Path, dtype: str, quantization: str) -> dict[str, Any]:
    """Load the folder in a fresh process."""
    words = [sys.executable, "-c", _LOAD, str(folder), dtype, quantization]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    found["above_weights_bytes"] = found["peak_bytes"] - found["weights_bytes"]
    return {"dtype": dtype, "quantization": quantization, **found}


def main() -> None:
    """Measure; print a table and the JSON line, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="sdar")
    parser.add_argument("--size", default="1.7b")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--quantization", nargs="+", default=["none"])
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        stored = make_checkpoint(folder, published_model(args.arch, args.size), max_shard_bytes=GB)
        num_shards = len(list(folder.glob("*.safetensors")))
        for dtype, quantization in itertools.product(args.dtype, args.quantization):
            row = measure(folder, dtype, quantization)
            rows.append(row)
            print(
                f"{dtype:>9} {quantization:>4}: weights {row['weights_bytes'] / GB:.2f} GB, peak "
                f"{row['peak_bytes'] / GB:.2f} GB, {row['seconds']:.1f} s"
            )
    content = {
        "checkpoint": f"{args.arch} {args.size}",
        "stored_bytes": stored,
        "num_shards": num_shards,
        "rows": rows,
    }
    write_result("load_memory", content, args.output)


if __name__ == "__main__":
    main()
