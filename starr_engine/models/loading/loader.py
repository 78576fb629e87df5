"""From a model's name to a model with weights: strict, streamed, without running foreign code."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import torch
from torch import nn
from tqdm import tqdm

from starr_engine.config import LoadFormat, Quantization
from starr_engine.errors import ConfigError
from starr_engine.models.base import MODELS, DiffusionModel, ModelSpec
from starr_engine.models.loading.checkpoint import Checkpoint
from starr_engine.models.loading.config_files import GENERATION_CONFIG, ConfigFiles
from starr_engine.models.loading.generation_defaults import generation_defaults
from starr_engine.models.loading.quantization import (
    Quantizer,
    check_quantization,
    parameter_dtype,
)

__all__ = ["build_model", "fill_model", "load_model", "starts_near_one"]

_FLOAT_DTYPES: Final = ("F64", "F32", "F16", "BF16")
DUMMY_SPREAD: Final = 0.02
"""Standard deviation of made-up weights, the usual one of untrained transformers."""

_QUICK_BYTES: Final = 10**9
"""Read without a progress bar."""

_SHOWN: Final = 10
"""Problems of one kind that a message lists."""


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    mask_block_length: int | None = None,
    load_format: LoadFormat = "auto",
    quantization: Quantization = "none",
) -> DiffusionModel:
    """Build the model that a folder describes and fill it with the folder's weights.

    Args:
        folder: Holds ``config.json`` and safetensors, as published; ``generation_config.json``
            may add token ids that end an output.
        device: Where the parameters go.
        dtype: Of the parameters; tables such as rotary angles keep their own, and what a module
            names in ``float32_parameters`` is float32.
        mask_block_length: See :func:`build_model`.
        load_format: ``dummy`` reads no weights and makes random ones up.
        quantization: Of the layers' matrices.

    Returns:
        The model, in evaluation mode, without gradients.

    Raises:
        ConfigError: If the folder is not a supported checkpoint; tensor problems are reported
            together.
    """
    model = build_model(folder, mask_block_length=mask_block_length)
    return fill_model(
        model, folder, device, dtype, load_format=load_format, quantization=quantization
    )


def fill_model(
    model: DiffusionModel,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    load_format: LoadFormat = "auto",
    quantization: Quantization = "none",
) -> DiffusionModel:
    """Give a model on ``meta`` its weights; arguments as of :func:`load_model`.

    Every parameter is filled exactly once and every tensor is used. Pieces of tensors are read one
    at a time into parameters of the final dtype, so the weights are in memory about once; with
    quantised weights about their quantised size, because each matrix is quantised once it is whole.

    Raises:
        ConfigError: If the weights do not fit the model or cannot be quantised, before any is read.
    """
    check_quantization(model, quantization, device, dtype)
    quantizer = Quantizer(model, quantization)
    if load_format == "dummy":
        _fill_randomly(model, device, dtype, quantizer)
    else:
        checkpoint = Checkpoint.open(folder).without(model.unread_prefixes)
        _check_tensors(folder, model, checkpoint)
        _fill(folder, model, checkpoint, device, dtype, quantizer)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model.eval()


def build_model(folder: Path, *, mask_block_length: int | None = None) -> DiffusionModel:
    """The model that ``config.json`` describes, its parameters on ``meta``.

    Args:
        folder: As in :func:`load_model`.
        mask_block_length: Of a block-causal model, in place of what its files say.

    Raises:
        ConfigError: If the folder has no ``config.json`` or it is not supported, or if
            ``mask_block_length`` is given for a bidirectional model.
    """
    files = ConfigFiles.read(folder)
    architectures = files.config.get("architectures")
    listed = architectures if isinstance(architectures, list) else []
    known = [name for name in listed if name in MODELS]
    if not known:
        raise ConfigError(_unknown_architecture(folder, files, architectures))
    try:
        model = MODELS.get(known[0]).from_files(files)
    except (RuntimeError, OverflowError) as error:  # torch's, of a shape beyond 64 bits
        raise ConfigError(
            f"{folder / 'config.json'} describes a model too large for any machine ({error})"
        ) from error
    spec = _with_generation_config(model.spec, folder, files)
    model.spec = _with_block_length(spec, folder, mask_block_length)
    return model


def _unknown_architecture(folder: Path, files: ConfigFiles, architectures: object) -> str:
    brings_code = files.config.get("auto_map") is not None
    remote = (
        "; the code that comes with the checkpoint is never run, so its family must be added here "
        "(docs/adding_a_model.md)"
        if brings_code
        else ""
    )
    return (
        f"{folder / 'config.json'} names the architecture {architectures!r}, which is not a "
        f"diffusion language model known here; known: {', '.join(MODELS.names())}{remote}"
    )


def _with_block_length(spec: ModelSpec, folder: Path, block_length: int | None) -> ModelSpec:
    if block_length is None:
        if spec.block_length_is_assumed:
            # Text of another block length is poor, and nothing else would show it.
            warnings.warn(
                f"no file of {folder} says the block length of its attention; taking "
                f"{spec.block_length}. If it was trained with another one, such as a checkpoint "
                "named -b16, pass mask_block_length (--mask-block-length); else pass this one to "
                "silence the warning",
                stacklevel=2,
            )
        return spec
    if spec.may_be_block_causal:
        return replace(spec, attention_kind="block_causal", block_length=block_length)
    if spec.attention_kind != "block_causal":
        raise ConfigError(
            f"mask_block_length={block_length} is for block-causal models; the attention of "
            f"{spec.architecture} is {spec.attention_kind}"
        )
    sub_block = spec.sub_block_length
    if sub_block is not None and block_length % sub_block:
        sub_block = None
    return replace(
        spec, block_length=block_length, sub_block_length=sub_block, block_length_is_assumed=False
    )


def _with_generation_config(spec: ModelSpec, folder: Path, files: ConfigFiles) -> ModelSpec:
    listed = files.generation.get("eos_token_id")
    more = listed if isinstance(listed, list) else [] if listed is None else [listed]
    for token in more:
        if type(token) is not int or not 0 <= token < spec.vocab_size:
            raise ConfigError(
                f"{folder / GENERATION_CONFIG}: eos_token_id must hold token ids in "
                f"[0, {spec.vocab_size}), got {token!r}"
            )
    return replace(
        spec,
        eos_token_ids=tuple(dict.fromkeys((*spec.eos_token_ids, *more))),
        generation_defaults=generation_defaults(files.generation),
    )


def _check_tensors(folder: Path, model: DiffusionModel, checkpoint: Checkpoint) -> None:
    """Compare names, shapes and dtypes before any data is read."""
    expected = dict(model.tensor_shapes())
    published = {place.parameter: name for name, place in model.tensor_places().items()}
    for name, source in model.repeated_parameters.items():
        if name in checkpoint.headers:
            expected[name] = expected[published[source]]
    headers = checkpoint.headers
    problems = [
        _listed("missing", (name for name in expected if name not in headers)),
        _listed("unexpected", (name for name in headers if name not in expected)),
        _listed(
            "of wrong shape",
            (
                f"{name} is {list(header.shape)}, expected {list(expected[name])}"
                for name, header in headers.items()
                if name in expected and header.shape != expected[name]
            ),
        ),
        _listed(
            f"of a dtype other than {', '.join(_FLOAT_DTYPES)}",
            (
                f"{name} is {header.dtype}"
                for name, header in headers.items()
                if name in expected and header.dtype not in _FLOAT_DTYPES
            ),
        ),
    ]
    if any(problems):
        raise ConfigError(
            f"the weights in {folder} do not fit its config.json; tensors "
            + "; ".join(problem for problem in problems if problem)
        )


def _listed(kind: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    if not ordered:
        return ""
    rest = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{kind} ({len(ordered)}): {', '.join(ordered[:_SHOWN])}{rest}"


def _fill(
    folder: Path,
    model: DiffusionModel,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantizer: Quantizer,
) -> None:
    repeated, places = model.repeated_parameters, model.tensor_places()
    cuts = {name: place.cut for name, place in places.items() if place.cut is not None}
    missing = {name: parameter.numel() for name, parameter in model.named_parameters()}
    held = sum(parameter.numel() for parameter in model.parameters())
    share = held / max(1, sum(map(math.prod, model.tensor_shapes().values())))
    is_shown = model.ranks is None or model.ranks.rank == 0
    with _progress(int(checkpoint.num_bytes * share), is_shown=is_shown) as bar:
        for piece in checkpoint.pieces(places, cuts):
            place = places[piece.name]
            parameter = model.get_parameter(place.parameter)
            if parameter.is_meta:
                parameter = _make_parameter(model, place.parameter, device, dtype)
            # Copied, because the piece may be a view of the mapped file.
            piece.of(place.of(parameter.data)).copy_(piece.values)
            missing[place.parameter] -= piece.values.numel()
            if not missing[place.parameter]:
                quantizer.take(place.parameter)
            bar.update(piece.values.nbytes)
    cut_of = {places[name].parameter: cut for name, cut in cuts.items()}
    again = {name: cut_of[source] for name, source in repeated.items() if source in cut_of}
    for piece in checkpoint.pieces(repeated, again):
        source = model.get_parameter(repeated[piece.name])
        if not torch.equal(piece.values.to(device, dtype), piece.of(source)):
            raise ConfigError(
                f"{folder} ties {piece.name} to {repeated[piece.name]} in config.json, but stores "
                "different values for them; set weight_tying (tie_word_embeddings) to false if "
                "both are meant"
            )


def _fill_randomly(
    model: DiffusionModel, device: torch.device, dtype: torch.dtype, quantizer: Quantizer
) -> None:
    generator = torch.Generator(device).manual_seed(0)
    for name, _ in list(model.named_parameters()):
        parameter = _make_parameter(model, name, device, dtype)
        if model.ranks is not None:  # what several ranks have must be the same on all of them
            own = 1 + model.ranks.rank if name in model.split_parameters else 0
            generator.manual_seed(zlib.crc32(name.encode()) + own)
        parameter.data.normal_(0.0, DUMMY_SPREAD, generator=generator)
        if starts_near_one(name, parameter.dim()):
            parameter.data.add_(1.0)
        quantizer.take(name)


def starts_near_one(name: str, num_dims: int) -> bool:
    """Whether an untrained parameter is near 1: those of norms and other factors; else near 0."""
    return num_dims == 1 and name.endswith(("weight", "scale", "scalar"))


def _progress(num_bytes: int, *, is_shown: bool) -> tqdm[NoReturn]:
    """A bar for what takes long, where someone is watching."""
    is_quick = num_bytes < _QUICK_BYTES or not is_shown
    return tqdm(
        total=num_bytes, desc="weights", unit="B", unit_scale=True, disable=is_quick or None
    )


def _make_parameter(
    model: nn.Module, name: str, device: torch.device, dtype: torch.dtype
) -> nn.Parameter:
    """Put a parameter with room for its data in the place of the one on ``meta``."""
    shape = model.get_parameter(name).shape
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    dtype = parameter_dtype(model, name, dtype)
    made = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
    setattr(module, leaf, made)
    return made
