"""What one request asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from starr_engine.errors import RequestError
from starr_engine.registry import unknown_name
from starr_engine.sampling_checks import (
    is_finite,
    is_int,
    is_token_id,
    is_tuple_of,
    plain_int,
    plain_sampling_fields,
    sampling_problems,
)
from starr_engine.unsupported import refuses_unsupported, unsupported_reason

__all__ = ["ArgValue", "Args", "SamplingParams", "is_finite"]

ArgValue = bool | int | float | str | None
Args = Mapping[str, ArgValue]


@refuses_unsupported
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling, remasking and caching of one request; every field is per request.

    Raises:
        RequestError: If a value is out of range; names all of them at once. Or if a field is one
            of another engine that is not supported.
    """

    max_tokens: int = 64
    """Tokens to generate behind the prompt; not used where a gap or a template says how many."""

    block_length: int | None = None
    """Positions that are denoised together; the last block is shorter if they do not divide. None
    is the block length of a block-causal model, which takes no other, and 32 for the rest."""

    temperature: float = 0.0
    """0 takes the most probable token; above 0 adds Gumbel noise to float64 logits."""

    top_p: float = 1.0
    """Draw only from the most probable tokens that reach this mass together; 1 is off."""

    top_k: int = 0
    """Draw only from so many of the most probable tokens; 0 or -1 is off."""

    min_p: float = 0.0
    """Draw only from tokens at least this fraction as probable as the best one; 0 is off."""

    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens on the canvas; 1 is off."""

    presence_penalty: float = 0.0
    """Taken off the logits of tokens that stand in the output."""

    frequency_penalty: float = 0.0
    """Taken off the logit of a token once for each time it stands in the output."""

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids; keys may be digits as text."""

    bad_words: tuple[str, ...] = ()
    """Texts whose token sequences, with and without a space before them, are never generated."""

    allowed_token_ids: tuple[int, ...] | None = None
    """The only token ids that may be generated; EOS is not among them unless named."""

    seed: int = 0
    """Seed of this request's noise; the same seed gives the same tokens in any batch."""

    n: int = 1
    """Samples of the prompt, with seeds derived from ``seed``; the first has ``seed`` itself."""

    logprobs: int | None = None
    """Log-probabilities of the output's tokens, with so many alternatives each; None for none."""

    stop: tuple[str, ...] = ()
    """Strings that end the output, looked for when a block is committed; not part of the text."""

    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the output as EOS does."""

    ignore_eos: bool = False
    """Decode all ``max_tokens`` and keep EOS in the output."""

    min_tokens: int = 0
    """Output positions before which nothing may end the output: no EOS, stop token or string."""

    suppress_eos: bool = False
    """Never generate EOS: its logit is minus infinity (``logits_eos_inf`` of LLaDA)."""

    eos_last: bool = False
    """Unmask EOS and stop tokens after everything else: their confidence counts as 0
    (``confidence_eos_eot_inf`` of LLaDA)."""

    include_stop_str_in_output: bool = False
    """Keep the stop string that ended the output."""

    skip_special_tokens: bool = True
    """Leave special tokens out of the text; they stay among the ids."""

    remasking: str = "starr"
    """Remasking policy: which positions of the block to unmask at a step."""

    remasking_args: Args = field(default_factory=dict)
    """Arguments of the remasking policy, by name."""

    cache: str = "auto"
    """Cache policy: which rows to recompute at a step and which to read from pages. ``auto`` is
    ``block_causal`` (exact) for models with block-causal attention, ``dual`` for the rest."""

    cache_args: Args = field(default_factory=dict)
    """Arguments of the cache policy, by name."""

    cache_salt: str = ""
    """Requests share cached prefixes only with those of the same salt."""

    priority: int = 0
    """Requests of lower numbers are served first; see docs/scheduling.md."""

    cache_probe_rate: float | None = None
    """Share of the steps, chosen by ``seed`` and prompt, that are computed a second time without
    any reuse, to report in the output's ``drift`` how far the cache is off. Never changes a token.
    None is 0.05 with ``isolate_prompt`` and 0 without."""

    early_exit: str | None = None
    """Rule that fills the rest of a block at once when the model is far ahead; None never does.
    Costs accuracy: see docs/policies.md."""

    early_exit_args: Args = field(default_factory=dict)
    """Arguments of the early exit rule, by name."""

    trace: bool = False
    """Record every step's candidates, numbers and decisions in the output's ``trace``."""

    def __post_init__(self) -> None:
        for name, value in self._plain().items():
            object.__setattr__(self, name, value)
        problems = self._problems()
        if problems:
            raise RequestError("; ".join(problems))

    def _plain(self) -> dict[str, Any]:
        """Fields whose kind can be settled: numpy's numbers, lists and single stops."""
        plain: dict[str, Any] = {
            name: int(value)
            for name in ("max_tokens", "block_length", "seed", "priority")
            if isinstance(value := getattr(self, name), Integral) and not isinstance(value, bool)
        }
        for name in ("temperature", "cache_probe_rate"):
            if isinstance(value := getattr(self, name), Real) and not isinstance(value, bool | int):
                plain[name] = float(value)
        if isinstance(self.stop, str):
            plain["stop"] = (self.stop,)
        elif isinstance(self.stop, Iterable):
            plain["stop"] = tuple(self.stop)
        if isinstance(self.stop_token_ids, Iterable):
            plain["stop_token_ids"] = tuple(plain_int(token) for token in self.stop_token_ids)
        for name in ("remasking_args", "cache_args", "early_exit_args"):
            if isinstance(args := getattr(self, name), Mapping):
                plain[name] = dict(args)
        return plain | plain_sampling_fields(self)

    def _problems(self) -> list[str]:
        problems: list[str] = []
        for name in ("max_tokens", "block_length"):
            value = getattr(self, name)
            if value is None and name == "block_length":
                continue
            if not is_int(value) or value < 1:
                problems.append(f"{name} must be a positive integer, got {value!r}")
        if not is_finite(self.temperature) or self.temperature < 0:
            problems.append(f"temperature must be a finite number >= 0, got {self.temperature!r}")
        if not is_int(self.seed) or not 0 <= self.seed < 2**63:
            problems.append(f"seed must be an integer in [0, 2**63), got {self.seed!r}")
        if not is_tuple_of(self.stop, lambda text: isinstance(text, str) and text != ""):
            problems.append(f"stop must hold non-empty strings, got {self.stop!r}")
        if not is_tuple_of(self.stop_token_ids, is_token_id):
            problems.append(f"stop_token_ids must hold token ids >= 0, got {self.stop_token_ids!r}")
        if not is_int(self.priority):
            problems.append(f"priority must be an integer, got {self.priority!r}")
        if not isinstance(self.cache_salt, str):
            problems.append(f"cache_salt must be a text, got {self.cache_salt!r}")
        rate = self.cache_probe_rate
        if rate is not None and (not is_finite(rate) or not 0 <= rate <= 1):
            problems.append(f"cache_probe_rate must be a number in [0, 1], got {rate!r}")
        problems += sampling_problems(self)
        if not isinstance(self.trace, bool):
            problems.append(f"trace must be True or False, got {self.trace!r}")
        for name in ("remasking", "cache"):
            if not isinstance(getattr(self, name), str):
                problems.append(f"{name} must be a policy name, got {getattr(self, name)!r}")
            problems += _args_problems(f"{name}_args", getattr(self, f"{name}_args"))
        if self.cache == "auto" and self.cache_args:
            problems.append("cache_args belong to a policy; name it with cache, which is 'auto'")
        problems += self._early_exit_problems()
        return problems

    def _early_exit_problems(self) -> list[str]:
        problems = _args_problems("early_exit_args", self.early_exit_args)
        if self.early_exit is None:
            if self.early_exit_args and not problems:
                problems.append("early_exit_args are given, but no early_exit names the rule")
        elif not isinstance(self.early_exit, str):
            problems.append(f"early_exit must be a rule name or None, got {self.early_exit!r}")
        return problems

    def with_overrides(self, overrides: Mapping[str, Any]) -> SamplingParams:
        """A copy with ``overrides``, checked anew.

        Raises:
            RequestError: If a name is not a field or a value is out of range.
        """
        known = [entry.name for entry in fields(self)]
        if reason := unsupported_reason(overrides):
            raise RequestError(reason)
        for name in overrides:
            if name not in known:
                raise RequestError(unknown_name("sampling field", name, known))
        return replace(self, **overrides)


def _args_problems(field_name: str, args: object) -> list[str]:
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        return [f"{field_name} must map names to values, got {args!r}"]
    # Policies are compared and hashed by these values, so that equal ones are decided together.
    return [
        f"{field_name}[{name!r}] must be a number, a text, True, False or None, got {value!r}"
        for name, value in args.items()
        if value is not None and not isinstance(value, bool | int | float | str)
    ]
