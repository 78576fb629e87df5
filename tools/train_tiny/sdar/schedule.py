"""What tiny-sdar is trained on when."""

from __future__ import annotations

from typing import Final

from tools.train_tiny.schedule import TrainConfig, make_phase

BLOCK_LENGTH: Final = 16
"""Positions that attend to each other in both directions; counted from position 0."""

CONFIG: Final = TrainConfig(
    steps=1900,
    micro_batches=4,
    micro_batch_positions=600,  # about half as many rows again: the noisy copies
    bfloat16=False,
    phases=(
        # the losses fall to a tenth within 50 steps, and stay there while the rate does
        make_phase(
            400, 0.5, 0.002, 0.001, 0.1, 1.0, 0.5,
            copy=0.1, lookup=0.1, steps=0.3, bare_few=0.5, few=1.8, json_extraction=0.7, code=0.5,
            word_problems=1.2, chains=1.8,
        ),
        make_phase(
            1900, 0.5, 0.002, 0.001, 0.1, 0.0, 0.5,
            steps=0.1, few=2.3, json_extraction=0.6, code=0.5, word_problems=1.0, chains=1.9,
        ),
    ),
)  # fmt: skip
