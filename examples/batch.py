"""A batch job from Python: a JSONL file in, one row out for each, errors included.

    python examples/batch.py [--folder out/batch]

The same on the command line:

    starr-engine batch --input questions.jsonl --output answers.jsonl --max-tokens 32 --resume
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from starr_engine import LLM, SamplingParams
from starr_engine.offline.job import BatchJob, run_batch_job

LIST = "Put in falling order: 2, 25, 18, 73, 60"
ROWS: list[dict[str, Any]] = [
    {"id": "plain", "prompt": LIST, "note": "carried through to the output"},
    {"id": "chat", "messages": [{"role": "user", "content": LIST}]},
    {"id": "own fields", "prompt": LIST, "remasking": "low_confidence", "cache": "none"},
    {"id": "gap", "prefix": 'JSON for this: Carla works in London as a cook.{"name": "Carla',
     "suffix": '", "job": "cook"}<|endoftext|>', "gap": 4},
    {"id": "bad", "prompt": LIST, "temperature": -1},
]  # fmt: skip


def main() -> None:
    """Write the input, run the job, print the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/batch"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "questions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    job = BatchJob(
        input=source,
        output=folder / "answers.jsonl",
        params=SamplingParams(max_tokens=32),
        overwrite=True,
    )
    summary = run_batch_job(LLM("tiny-llada"), job)

    for line in job.output.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        result = row["error"] or f"{row['text']!r}, NFE {row['nfe']}, {row['cache_label']}"
        print(f"{row['id']:11} {result}")
    print(f"{summary.num_rows} rows, {summary.num_errors} with an error: {job.output}")


if __name__ == "__main__":
    main()
