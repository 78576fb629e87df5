"""The random model of about 50 M parameters that several benchmarks run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cache_models import write_models

WIDTH, LAYERS, VOCAB = 640, 8, 8_192


def write_random_model(folder: Path, *, length: int, tiny: bool = False) -> Path:
    """A bidirectional model, in LLaDA's format.

    Args:
        folder: Where it goes.
        length: Longest canvas.
        tiny: Make it as small as can be, to try a benchmark out.
    """
    width, layers, vocab = (64, 1, 300) if tiny else (WIDTH, LAYERS, VOCAB)
    models = write_models(folder, width=width, layers=layers, vocab=vocab, length=length, block=32)
    return models["bidirectional"]
