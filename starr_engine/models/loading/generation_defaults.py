"""What a checkpoint's ``generation_config.json`` asks of decoding, as sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starr_engine.errors import ConfigError, RequestError
from starr_engine.models.loading.config_files import GENERATION_CONFIG
from starr_engine.params import SamplingParams

_ALWAYS: Final = {"max_new_tokens": "max_tokens", "repetition_penalty": "repetition_penalty"}
_WHEN_SAMPLING: Final = {"top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
"""Name in the file -> field of ``SamplingParams``."""


def generation_defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``SamplingParams`` that the file sets.

    As in transformers, temperature, top-p, top-k and min-p count only with ``do_sample``, whose
    temperature is 1 unless it is written down. What belongs to one published sampler, such as
    Dream's ``alg``, is no sampling parameter here: see docs/models.md for the matching policies.

    Args:
        generation: Content of ``generation_config.json``.

    Raises:
        ConfigError: If a value is out of range.
    """
    wanted = dict(_ALWAYS)
    found: dict[str, Any] = {}
    if generation.get("do_sample") is True:
        wanted |= _WHEN_SAMPLING
        temperature = generation.get("temperature")
        found["temperature"] = 1.0 if temperature is None else temperature
    for name, field in wanted.items():
        if generation.get(name) is not None:
            found[field] = generation[name]
    try:
        SamplingParams().with_overrides(found)
    except RequestError as error:
        raise ConfigError(f"{GENERATION_CONFIG} asks for what cannot be: {error}") from error
    return found
