"""Which settings are tried on a model: a chosen list, not every combination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starr_engine.cache.base import CACHE_POLICIES, EXACT
from starr_engine.config import EngineConfig
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, RequestError
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import Choice
from starr_engine.study.grid.read import parse_choice

_POLICIES: Final = (
    "threshold:threshold=0.9", "threshold:threshold=0.95", "threshold:threshold=0.8",
    "threshold:threshold=0.7", "factor", "frechet", "local_leap", "klass",
    "low_confidence:tokens_per_step=2",
)  # fmt: skip
"""With the model's own cache: the gates that the policy study found cheap, one line a step to
either side of the usual threshold, and what stays careful where a model is seldom sure."""

_CACHES: Final = (
    "none", "prefix", "dual", "dual:refresh=never", "vicinity", "delayed", "dllm", "block_causal",
)  # fmt: skip
"""With the usual threshold: every cache, so that its share shows."""

_PAIRS: Final = (
    ("none", "starr"), ("none", "threshold:threshold=0.8"), ("prefix", "starr"),
    ("vicinity", "starr"), ("vicinity", "threshold:threshold=0.8"),
)  # fmt: skip
"""More exact caches with bolder policies: where reuse costs accuracy, forwards may be saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A cache with a remasking policy."""

    cache: Choice
    remasking: Choice

    def __str__(self) -> str:
        """As people read it: ``dual, threshold 0.9``."""
        return f"{_short(self.cache)}, {_short(self.remasking)}"


BASELINE: Final = Candidate(cache=Choice(name="none"), remasking=Choice(name="low_confidence"))
"""The most careful setting: nothing is reused, one token per step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What decides which settings a model takes."""

    mask_block: int | None = None
    """See ``ModelSpec.mask_block``; None if the model is bidirectional."""

    exact_only: bool = False
    """See ``ModelSpec.needs_exact_cache``."""

    num_ranks: int = 1
    """Processes that share the model."""

    defaults: SamplingParams = field(default_factory=SamplingParams)
    """What a request gets that says nothing."""

    @property
    def default(self) -> Candidate:
        """The setting of a request that says nothing."""
        cache = self.defaults.cache
        if cache == "auto":
            cache = "dual" if self.mask_block is None else "block_causal"
        return Candidate(
            cache=Choice(name=cache, args=self.defaults.cache_args),
            remasking=Choice(
                name=self.defaults.remasking, args=self.defaults.remasking_args
            ),
        )  # fmt: skip

    def takes(self, cache: Choice) -> bool:
        """Whether requests with this cache run."""
        policy = CACHE_POLICIES.create(cache.name, cache.args)
        if policy.refusal(self.mask_block) or (self.num_ranks > 1 and policy.keeps_features):
            return False
        return not self.exact_only or policy.label(self.mask_block) == EXACT


def traits_of(config: EngineConfig) -> ModelTraits:
    """The traits of a model, from its configuration alone; no weight is read.

    Raises:
        ConfigError: If it cannot be found or is not supported.
    """
    from starr_engine.models.loading.loader import build_model
    from starr_engine.models.loading.locate import resolve_model

    folder = resolve_model(config.model, config.revision)
    spec = build_model(folder, mask_block_length=config.mask_block_length).spec
    return ModelTraits(
        mask_block=spec.mask_block,
        exact_only=spec.needs_exact_cache,
        num_ranks=config.tensor_parallel_size,
        defaults=SamplingParams().with_overrides(spec.generation_defaults),
    )


def candidates_for(traits: ModelTraits) -> tuple[Candidate, ...]:
    """The built-in list for a model; its default setting first."""
    own = str(traits.default.cache)
    pairs = [(own, each) for each in ("starr", *_POLICIES)]
    pairs += [(each, _POLICIES[0]) for each in _CACHES]
    # In a block-causal model every cache gives the same tokens, and its own computes fewest rows.
    pairs += _PAIRS if traits.mask_block is None else []
    listed = [
        Candidate(cache=cache, remasking=parse_choice(policy))
        for name, policy in pairs
        if traits.takes(cache := parse_choice(name))
    ]
    return _distinct([traits.default, *listed])


def parse_candidates(pairs: Iterable[Sequence[str]], traits: ModelTraits) -> tuple[Candidate, ...]:
    """The user's own list, behind the default setting.

    Args:
        pairs: Cache and policy of each, written as :func:`parse_choice` reads them.
        traits: Of the model.

    Raises:
        ConfigError: If one is not known or has other arguments, or the model refuses its cache.
    """
    listed = [traits.default]
    for cache_text, remasking_text in pairs:
        cache, remasking = (parse_choice(text, Path()) for text in (cache_text, remasking_text))
        try:
            REMASKING_POLICIES.create(remasking.name, remasking.args)
            is_taken = traits.takes(cache)
        except RequestError as error:
            raise ConfigError(f"--candidate {cache_text} {remasking_text}: {error}") from error
        if not is_taken:
            raise ConfigError(f"--candidate {cache_text}: this model does not take that cache")
        listed.append(Candidate(cache=cache, remasking=remasking))
    return _distinct(listed)


def _distinct(listed: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Without the baseline, which is measured anyway, and each once."""
    by_name = {str(each): each for each in listed if str(each) != str(BASELINE)}
    return tuple(by_name.values())


def _short(choice: Choice) -> str:
    shown = [
        f"{value}" if name == choice.name else f"{name}={value}"
        for name, value in choice.args.items()
    ]
    return " ".join([choice.name, *shown])
