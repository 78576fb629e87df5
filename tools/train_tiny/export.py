"""Write a trained model as a checkpoint folder in its published format."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.train_tiny.checkpoint import load_state, under
from tools.train_tiny.kinds import KINDS


def main() -> None:
    """Export the weights of a training checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint.safetensors of a run"
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tensors, facts = load_state(args.checkpoint)
    kind = KINDS[facts["model"]]
    model = kind.build(facts["model_config"])
    model.load_state_dict(under("model", tensors))
    kind.export(model, facts["mask_id"], facts["eos_id"], args.output)


if __name__ == "__main__":
    main()
