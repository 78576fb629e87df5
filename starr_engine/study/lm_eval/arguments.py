"""``--model_args`` to the settings of an engine, of its requests, and of the likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams
from starr_engine.registry import unknown_name
from starr_engine.sampling_checks import is_int
from starr_engine.study.likelihood.scorer import DEFAULT_SAMPLES

DEFAULT_MAX_GEN_TOKS: Final = 256
"""The harness's own, for tasks that name no length."""

_ENGINE: Final = tuple(each.name for each in fields(EngineConfig))
_NOT_OFFERED: Final = ("max_tokens", "n", "stop", "logprobs", "trace", "priority")
_SAMPLING: Final = tuple(
    each.name for each in fields(SamplingParams) if each.name not in _NOT_OFFERED
)
_POLICIES: Final = ("cache", "remasking", "early_exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """What the user asks of the model.

    Raises:
        ConfigError: If a number is out of range.
    """

    engine: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``EngineConfig``."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``SamplingParams``, over the checkpoint's defaults and under the task's."""

    max_gen_toks: int = DEFAULT_MAX_GEN_TOKS
    """Output tokens of tasks that name no number."""

    mc_samples: int = DEFAULT_SAMPLES
    """Masks per block of a likelihood."""

    check_greedy: bool = True
    """Whether a likelihood says if greedy decoding writes the answer; False says it never does."""

    def __post_init__(self) -> None:
        for name in ("max_gen_toks", "mc_samples"):
            if not is_int(value := getattr(self, name)) or value < 1:
                raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
        if not isinstance(self.check_greedy, bool):
            raise ConfigError(f"check_greedy must be True or False, got {self.check_greedy!r}")


_OWN: Final = ("max_gen_toks", "mc_samples", "check_greedy")


def parse_arguments(
    given: Mapping[str, Any],
    *,
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
) -> ModelArguments:
    """Sort what came by name.

    Args:
        given: Names of ``EngineConfig``, ``SamplingParams`` or ``ModelArguments``. A policy's
            arguments come as ``cache_args={...}`` or, where only ``NAME=VALUE`` can be typed, as
            ``cache.refresh_every=4``. ``pretrained`` is another word for ``model``.
        batch_size: The harness's own flag: a number is ``max_num_requests``, ``auto`` leaves that
            to the engine.
        max_batch_size: Of the harness; ``max_num_requests`` with ``auto``.
        device: Of the harness.

    Raises:
        ConfigError: If a name is unknown or comes twice.
    """
    engine: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    own: dict[str, Any] = {}
    if device is not None:
        engine["device"] = device
    if (size := _batch_size(batch_size, max_batch_size)) is not None:
        engine["max_num_requests"] = size
    for name, value in _without_aliases(given).items():
        policy, dot, argument = name.partition(".")
        if dot and policy in _POLICIES:
            sampling.setdefault(f"{policy}_args", {})[argument] = value
        elif name in _ENGINE:
            engine[name] = _named(name, value)
        elif name in _SAMPLING:
            if name.endswith("_args") and name in sampling:
                raise ConfigError(f"{name} and {name.removesuffix('_args')}.NAME are both given")
            sampling[name] = dict(value) if isinstance(value, Mapping) else _named(name, value)
        elif name in _OWN:
            own[name] = value
        else:
            raise ConfigError(unknown_name("model argument", name, [*_ENGINE, *_SAMPLING, *_OWN]))
    return ModelArguments(engine=engine, sampling=sampling, **own)


def _without_aliases(given: Mapping[str, Any]) -> dict[str, Any]:
    renamed = dict(given)
    if "pretrained" in renamed:
        if "model" in renamed:
            raise ConfigError("model and pretrained are two words for one thing; give one")
        renamed["model"] = renamed.pop("pretrained")
    return renamed


def _batch_size(size: int | str | None, largest: int | None) -> int | None:
    if size is None:
        return None
    if str(size).partition(":")[0] == "auto":
        return largest
    try:
        return int(size)
    except ValueError:
        raise ConfigError(f"batch_size must be a number or auto, got {size!r}") from None


def _named(name: str, value: Any) -> Any:
    # The harness reads the word none as None, and here it is a policy's name.
    return "none" if value is None and name in ("cache", "quantization") else value
