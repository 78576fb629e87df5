"""Matrices of the layers in eight bits: which, what they take, and how they come about.

``int8`` keeps a matrix as integers with one float32 factor per output column and multiplies in the
dtype of the rows; rows are not rounded. ``fp8`` keeps E4M3 floats with such factors and multiplies
in eight bits, so that every row is rounded to E4M3 too, with a factor of its own: what becomes of a
row does not depend on the other rows of the batch.

Source:
    torchao's ``Int8WeightOnlyConfig`` and ``Float8DynamicActivationFloat8WeightConfig`` with
    ``PerRow``, which do the arithmetic.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Any, Final

import torch
from torch import Tensor, nn

from starr_engine.config import Quantization
from starr_engine.errors import ConfigError
from starr_engine.layers.linear import Linear
from starr_engine.models.base import DiffusionModel

_FACTOR_BYTES: Final = {"int8": 4 + 1, "fp8": 4}
"""Beside the values, for each output column: a factor, and for int8 a zero point, which is 0."""

_FP8_CAPABILITY: Final = (8, 9)
"""Oldest CUDA device that multiplies FP8: Ada; Hopper is 9.0."""

_FP8_MULTIPLE: Final = 16
"""Of which both sides of a matrix must be a multiple; torchao leaves others as they are."""

_FREED_AT_ONCE: Final = 2**27
"""Bytes of floats that are freed before C's heap is tidied."""

_SHOWN: Final = 5
"""Names that a message lists."""


def quantizable_weights(model: DiffusionModel) -> frozenset[str]:
    """Names of the parameters that quantisation changes: the matrices of projections in layers.

    The embedding, the output head, norms, biases and routers are none of them: they are few, and
    rounding them costs the most.
    """
    inside = {module for layer in model.layers for module in layer.modules()}
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if module in inside and isinstance(module, Linear)
    )


def can_be_quantized(model: DiffusionModel) -> bool:
    """Whether the model itself allows it: nothing about a device, a dtype or packages."""
    return _stacked_weight(model) is None


def check_quantization(
    model: DiffusionModel, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> None:
    """Refuse what cannot be quantised, before any weight is read.

    Args:
        model: On ``meta``.
        quantization: Of the weights; nothing is wrong with ``none``.
        device: Where they go.
        dtype: Of the rows, and of all other parameters.

    Raises:
        ConfigError: Says what to change.
    """
    if quantization == "none":
        return
    if problem := _problem(model, quantization, device, dtype):
        raise ConfigError(f"quantization={quantization!r} {problem}")
    _torchao()


def _problem(
    model: DiffusionModel, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> str | None:
    if stacked := _stacked_weight(model):
        return (
            "is not supported for models with experts, whose matrices are stacked, as in "
            f"{stacked}; use quantization='none'"
        )
    if quantization == "int8":
        if dtype is torch.float16:
            return (
                "cannot be used with dtype='float16', which overflows when rows are multiplied by "
                "integers; use bfloat16 or float32"
            )
        return None
    if device.type != "cuda":
        return f"needs a CUDA device, and device is {device}; use quantization='int8'"
    capability = torch.cuda.get_device_capability(device)
    if capability < _FP8_CAPABILITY:
        have, need = (".".join(map(str, each)) for each in (capability, _FP8_CAPABILITY))
        return (
            f"needs a CUDA device of capability {need} or newer, such as L4 or H100, and {device} "
            f"has {have}; use quantization='int8'"
        )
    if dtype is not torch.bfloat16:
        return f"needs dtype='bfloat16', got {str(dtype).removeprefix('torch.')!r}"
    odd = [
        f"{name} {list(model.get_parameter(name).shape)}"
        for name in sorted(quantizable_weights(model))
        if any(side % _FP8_MULTIPLE for side in model.get_parameter(name).shape)
    ]
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        return (
            f"needs matrices whose sides are multiples of {_FP8_MULTIPLE}; not so: "
            f"{', '.join(odd[:_SHOWN])}{more}; use quantization='int8'"
        )
    return None


def _stacked_weight(model: DiffusionModel) -> str | None:
    """Name of a parameter that holds several matrices, if there is one."""
    names = (name for name, weight in model.named_parameters() if weight.dim() > 2)
    return next(names, None)


def parameter_dtype(model: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """Of one parameter, when those of the model are to be of ``dtype``."""
    owner, _, leaf = name.rpartition(".")
    wide = getattr(model.get_submodule(owner), "float32_parameters", ())
    return torch.float32 if leaf in wide else dtype


def expected_weight_bytes(
    model: DiffusionModel, dtype: torch.dtype, quantization: Quantization
) -> int:
    """Memory of a model's parameters once it is loaded, from their shapes alone."""
    chosen = frozenset() if quantization == "none" else quantizable_weights(model)
    total = 0
    for name, parameter in model.named_parameters():
        if name in chosen:
            total += parameter.numel() + len(parameter) * _FACTOR_BYTES[quantization]
        else:
            total += parameter.numel() * parameter_dtype(model, name, dtype).itemsize
    return total


def held_weight_bytes(model: nn.Module) -> int:
    """Memory of a loaded model's parameters; ``nbytes`` of a quantised one counts its floats."""
    return sum(part.nbytes for weight in model.parameters() for part in _parts(weight))


def _parts(weight: Tensor) -> list[Tensor]:
    flatten = getattr(weight, "__tensor_flatten__", None)  # torch's protocol of tensor subclasses
    return [weight] if flatten is None else [getattr(weight, name) for name in flatten()[0]]


class Quantizer:
    """Quantises the matrices of a model, each as soon as its floats are there.

    Args:
        model: Checked by :func:`check_quantization`.
        quantization: ``none`` changes nothing.
    """

    def __init__(self, model: DiffusionModel, quantization: Quantization) -> None:
        self._model = model
        self._names = frozenset() if quantization == "none" else quantizable_weights(model)
        self._config = None if quantization == "none" else _config(quantization)
        self._freed_bytes = 0

    def take(self, name: str) -> None:
        """The parameter ``name`` is filled: replace it, if it is one of those."""
        if name not in self._names:
            return
        module = self._model.get_submodule(name.rpartition(".")[0])
        floats = module.get_parameter("weight")
        is_on_cpu, num_bytes = floats.device.type == "cpu", floats.nbytes
        del floats
        _torchao().quantize_(
            module, self._config, filter_fn=lambda part, _: isinstance(part, Linear)
        )
        assert len(_parts(module.get_parameter("weight"))) > 1, f"{name} was left as it is"
        self._freed_bytes += num_bytes if is_on_cpu else 0
        if self._freed_bytes > _FREED_AT_ONCE:
            self._freed_bytes = 0
            _return_free_memory()


def _return_free_memory() -> None:
    """Give what C's heap has free between its blocks back to the system.

    Otherwise the holes that freed floats leave between quantised matrices stay this process's
    memory: 1.3 GB of a model of 1.7 billion parameters.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _config(quantization: Quantization) -> Any:
    library = _torchao()
    if quantization == "int8":
        return library.Int8WeightOnlyConfig(set_inductor_config=False)
    return library.Float8DynamicActivationFloat8WeightConfig(
        granularity=library.PerRow(), set_inductor_config=False
    )


def _torchao() -> Any:
    """The module of the library; takes seconds the first time."""
    # It says that its own kernels do not load on this machine, of which none is used here, and
    # torch that one of its calls is deprecated.
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        from torchao import quantization
    except ImportError as error:
        raise ConfigError(
            f"quantised weights need the package torchao ({error}); install it with "
            "`pip install 'starr-engine[quant]'`, or use quantization='none'"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return quantization
