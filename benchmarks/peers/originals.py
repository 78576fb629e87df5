"""The authors' own procedures, where the user has them and says where.

``--original NAME=PATH`` imports the file at PATH, which runs the code in it: this happens for no
path that was not given on the command line, and never for a file of a checkpoint. The imported
procedure gets the model as :mod:`benchmarks.peers.published` wraps it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.asked import Asked, Prompt
from benchmarks.peers.dense import DenseForward
from benchmarks.peers.published import PublishedBlockModel, PublishedModel
from benchmarks.peers.running import Decode
from starr_engine.errors import StarrError

Function = Callable[..., Any]


class OriginalError(StarrError):
    """An original cannot be loaded, or does not do what is expected of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What is expected of an installed original."""

    source: str
    files: tuple[str, ...]
    """Where its procedures are, below the folder of its repository; the first that is there."""

    functions: tuple[str, ...]


ORIGINALS: Mapping[str, Original] = {
    "llada": Original(
        source="github.com/ML-GSAI/LLaDA", files=("generate.py",), functions=("generate",)
    ),
    "fast_dllm": Original(
        source="github.com/NVlabs/Fast-dLLM",
        files=("v1/llada/generate.py", "llada/generate.py", "generate.py"),
        functions=("generate_with_prefix_cache", "generate_with_dual_cache"),
    ),
    "sdar": Original(
        source="github.com/JetAstra/SDAR",
        files=("generate.py",),
        functions=("block_diffusion_generate",),
    ),
}


def load_original(name: str, path: Path) -> dict[str, Function]:
    """Import the procedures of an original.

    Args:
        name: A key of ``ORIGINALS``.
        path: Its file, or the folder of its repository.

    Raises:
        OriginalError: If there is no such name or file, if importing it fails, or if a function
            that is expected is not there.
    """
    if name not in ORIGINALS:
        raise OriginalError(f"no original is called {name!r}; known are {', '.join(ORIGINALS)}")
    expected = ORIGINALS[name]
    file = _file(expected, path)
    spec = importlib.util.spec_from_file_location(f"original_{name}", file)
    if spec is None or spec.loader is None:
        raise OriginalError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # for what it imports from beside itself
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise OriginalError(
            f"importing {file} failed: {type(error).__name__}: {error}; install what "
            f"{expected.source} needs, or leave out --original {name}"
        ) from error
    finally:
        sys.path.remove(str(file.parent))
    missing = [each for each in expected.functions if not callable(getattr(module, each, None))]
    if missing:
        raise OriginalError(
            f"{file} has no function {' and no '.join(missing)}; "
            f"--original {name} expects the file that {expected.source} publishes"
        )
    return {each: getattr(module, each) for each in expected.functions}


def _file(expected: Original, path: Path) -> Path:
    candidates = [path] if path.suffix == ".py" else [path / each for each in expected.files]
    found = next((each.resolve() for each in candidates if each.is_file()), None)
    if found is None:
        raise OriginalError(
            f"{path} is not there or holds none of {', '.join(expected.files)}; "
            f"give the folder of {expected.source}, or the file itself"
        )
    return found


def bidirectional_decode(function: Function, forward: DenseForward, *, cached: bool) -> Decode:
    """LLaDA's or, ``cached``, Fast-dLLM's procedure as the decoding of one prompt."""
    model = PublishedModel(forward)

    def decode(prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
        [prompt] = prompts
        options: dict[str, Any] = {"threshold": asked.threshold} if cached else {}
        answer = _call(
            function,
            model,
            torch.tensor([prompt.token_ids], device=forward.device),
            steps=prompt.max_tokens // asked.tokens_per_step,
            gen_length=prompt.max_tokens,
            block_length=asked.block_length,
            temperature=0.0,
            remasking="low_confidence",
            mask_id=asked.mask,
            **options,
        )
        return _behind(prompt, answer[0] if cached else answer, function)

    return decode


def block_causal_decode(function: Function, forward: DenseForward) -> Decode:
    """SDAR's procedure as the decoding of one prompt.

    It draws tokens from the whole distribution, because its confidence is the probability under
    which a token was drawn: with one token left to draw from, it would be sure of every token.
    """
    model = PublishedBlockModel(forward)

    def decode(prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
        [prompt] = prompts
        torch.manual_seed(0)
        answer = _call(
            function,
            model,
            prompt={"input_ids": torch.tensor([prompt.token_ids], device=forward.device)},
            mask_id=asked.mask,
            gen_length=prompt.max_tokens,
            block_length=asked.block_length,
            denoising_steps=asked.block_length // asked.tokens_per_step,
            remasking_strategy="low_confidence_dynamic",
            confidence_threshold=asked.threshold,
            stopping_criteria_idx=list(asked.eos) if asked.early_stop else None,
        )
        return _behind(prompt, answer, function)

    return decode


def _call(function: Function, *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except Exception as error:
        raise OriginalError(
            f"the original {function.__name__} failed: {type(error).__name__}: {error}; its "
            "interface may have changed since this was written"
        ) from error


def _behind(prompt: Prompt, canvas: Any, function: Function) -> list[list[int]]:
    least = len(prompt.token_ids) + prompt.max_tokens
    if not isinstance(canvas, torch.Tensor) or canvas.dim() != 2 or canvas.shape[1] < least:
        raise OriginalError(
            f"the original {function.__name__} gave {type(canvas).__name__}, not a tensor "
            f"[1, {least}] of prompt and new tokens"
        )
    return [canvas[0, len(prompt.token_ids) :].tolist()]
