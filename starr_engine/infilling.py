"""Prompts with a gap and templates with slots: from what users write to what the engine takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeGuard

from starr_engine.errors import RequestError
from starr_engine.outputs import FinishReason, RequestOutput
from starr_engine.params import SamplingParams

Template = Sequence[int | None]
"""What stands behind a prompt: fixed ids, and None for each token to generate."""

MAX_GAP_LENGTHS: Final = 16
"""Gap lengths tried for one prompt; a wider range is sampled evenly."""

INFILL_FIELDS: Final = (
    "prefix", "suffix", "prefix_token_ids", "suffix_token_ids", "gap", "template"
)  # fmt: skip
"""Keys of prompts that no ordinary prompt has."""


class PartEncoder(Protocol):
    """The part of the tokenizer that gaps and templates need."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text at the beginning."""

    def encode_part(self, text: str) -> list[int]:
        """Ids of a text further behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """What the engine takes."""

    prompt_token_ids: Sequence[int]

    template: Template | None = None
    """None asks for ``max_tokens`` tokens behind the prompt."""

    given: tuple[int, ...] | None = None
    """Tokens that the template's masks take at once, only to learn their probability."""

    @property
    def num_masks(self) -> int:
        """Tokens to generate; only of a template."""
        return sum(token is None for token in self.template or ())


Candidates = tuple[TokenPrompt, ...]
"""One prompt, or the same with several gap lengths, of which the best is taken."""

SEAM_TOKENS: Final = 4
"""Tokens behind a gap that judge its length."""

SEAM_PARAMS: Final = SamplingParams(block_length=SEAM_TOKENS, cache="none")
"""Of the forwards that judge."""


def is_infill(prompt: Mapping[str, Any]) -> bool:
    """Whether the prompt has a gap or a template."""
    return any(name in prompt for name in INFILL_FIELDS)


def parse_infill(prompt: Mapping[str, Any], get_tokenizer: Callable[[], PartEncoder]) -> Candidates:
    """Encode a prompt with a gap or a template.

    Args:
        prompt: ``{"prefix": text, "suffix": text, "gap": 12}``, the same with
            ``prefix_token_ids`` and ``suffix_token_ids``, or
            ``{"prompt": text, "template": parts}`` where texts and lists of ids are fixed, and
            numbers say how many tokens to generate.
        get_tokenizer: Called only if a text needs it.

    Returns:
        One candidate; for a gap ``(low, high)`` one per length, shortest first.

    Raises:
        RequestError: If a part is missing or of the wrong kind, or parts contradict each other.
    """
    if "template" in prompt:
        _refuse_others(prompt, "template", ("prompt", "prompt_token_ids"))
        front: list[int] = []
        for name, encode in (("prompt", _first_text), ("prompt_token_ids", _id_list)):
            if name in prompt:
                front = encode(name, prompt[name], get_tokenizer)
        return (_parse_template(front, prompt["template"], get_tokenizer),)
    if "gap" not in prompt:
        raise RequestError("a prefix or suffix needs a gap: the number of tokens between them")
    names = ("prefix", "prefix_token_ids", "suffix", "suffix_token_ids")
    _refuse_others(prompt, "gap", names)
    for end in ("prefix", "suffix"):
        if end in prompt and f"{end}_token_ids" in prompt:
            raise RequestError(f"give {end} or {end}_token_ids, not both")
    encoders = (_first_text, _id_list, _part_text, _id_list)
    parts = [
        encode(name, prompt[name], get_tokenizer) if name in prompt else []
        for name, encode in zip(names, encoders, strict=True)
    ]
    prefix, suffix = parts[0] or parts[1], parts[2] or parts[3]
    return tuple(
        TokenPrompt(prompt_token_ids=prefix, template=[*[None] * length, *suffix])
        for length in gap_lengths(prompt["gap"])
    )


def gap_lengths(gap: object) -> tuple[int, ...]:
    """The lengths to try: one, or up to 16 spread evenly over ``(low, high)``, ends included.

    Raises:
        RequestError: If ``gap`` is neither a positive number nor a range of such.
    """
    ends: list[Any] = list(gap) if isinstance(gap, list | tuple) else [gap, gap]
    if len(ends) != 2 or not all(_is_count(end) for end in ends) or ends[0] > ends[1]:
        raise RequestError(
            f"gap must be a number of tokens of at least 1, or (low, high) with low <= high, "
            f"got {gap!r}"
        )
    low, high = ends
    count = min(high - low + 1, MAX_GAP_LENGTHS)
    return tuple(low + round(step * (high - low) / max(count - 1, 1)) for step in range(count))


def seam_checks(candidates: Candidates, outputs: Sequence[RequestOutput]) -> Candidates:
    """What to run under ``SEAM_PARAMS`` before :func:`choose`, in order of the filled outputs.

    A model is often sure of a fill of the wrong length: it writes on until the gap is full. So each
    filled gap is asked again for the first tokens behind it, which are known.

    Returns:
        Nothing if there is no choice, or no suffix.
    """
    if len(candidates) == 1:
        return ()
    checks: list[TokenPrompt] = []
    for candidate, output in _filled(candidates, outputs):
        suffix = list(candidate.template or ())[candidate.num_masks :]
        seam = tuple(token for token in suffix[:SEAM_TOKENS] if token is not None)
        if seam:
            checks.append(
                TokenPrompt(
                    prompt_token_ids=[*candidate.prompt_token_ids, *output.token_ids],
                    template=[*[None] * len(seam), *suffix[len(seam) :]],
                    given=seam,
                )
            )
    return tuple(checks)


def choose(
    candidates: Candidates, outputs: Sequence[RequestOutput], checks: Sequence[RequestOutput]
) -> RequestOutput:
    """The output that fits best: highest mean log-confidence over the gap and its seam.

    Among equals the shortest is taken.

    Args:
        candidates: What was run.
        outputs: One of each, in order; one with an error is taken only if all have one.
        checks: Of :func:`seam_checks`.
    """
    if len(outputs) == 1:
        return outputs[0]
    filled = [output for _, output in _filled(candidates, outputs)]
    best = outputs[0]
    if filled:
        seams: Sequence[RequestOutput | None] = checks or [None] * len(filled)
        scores = [_score(output, seam) for output, seam in zip(filled, seams, strict=True)]
        best = filled[scores.index(max(scores))]
    return replace(
        best,
        request_id=outputs[0].request_id,
        gap_lengths_tried=tuple(candidate.num_masks for candidate in candidates),
        search_nfe=sum(output.nfe for output in (*outputs, *checks)) - best.nfe,
    )


def _filled(
    candidates: Candidates, outputs: Sequence[RequestOutput]
) -> list[tuple[TokenPrompt, RequestOutput]]:
    pairs = zip(candidates, outputs, strict=True)
    return [(tried, output) for tried, output in pairs if output.mean_log_confidence is not None
            and output.finish_reason is FinishReason.LENGTH]  # fmt: skip


def _score(*parts: RequestOutput | None) -> float:
    """Mean log-confidence over all tokens of the parts; a check that failed counts as unlikely."""
    known = [part for part in parts if part is not None]
    if any(part.mean_log_confidence is None for part in known):
        return -math.inf
    total = sum((part.mean_log_confidence or 0.0) * part.num_unmasked for part in known)
    return total / sum(part.num_unmasked for part in known)


def refuse_stops(params: SamplingParams) -> None:
    """Refuse what would end a template before its end.

    Raises:
        RequestError: If stop strings or stop tokens are set.
    """
    for name in ("stop", "stop_token_ids"):
        if getattr(params, name):
            raise RequestError(
                f"{name} cannot be used with a gap or a template: the text behind it is given, so "
                "nothing may end it early; remove it"
            )


def _parse_template(
    front: list[int], parts: object, get_tokenizer: Callable[[], PartEncoder]
) -> TokenPrompt:
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise RequestError(
            "a template is a list of texts, lists of token ids and numbers of tokens to generate, "
            f"got {parts!r}"
        )
    rest: list[int | None] = []
    for at, part in enumerate(parts):
        name = f"template[{at}]"
        if _is_count(part):
            rest += [None] * part
        elif isinstance(part, str):
            is_first = not front and not rest
            rest += (_first_text if is_first else _part_text)(name, part, get_tokenizer)
        elif isinstance(part, list | tuple):
            rest += _id_list(name, part, get_tokenizer)
        else:
            raise RequestError(
                f"{name} must be a text, a list of token ids, or a number of tokens of at least 1, "
                f"got {part!r}"
            )
    if None not in rest:
        raise RequestError(
            "the template has nothing to generate; put a number where tokens are to come"
        )
    return TokenPrompt(prompt_token_ids=front, template=rest)


def _refuse_others(prompt: Mapping[str, Any], what: str, known: Sequence[str]) -> None:
    others = [repr(name) for name in prompt if name not in (what, *known)]
    if others:
        raise RequestError(f"a prompt with a {what} cannot have {' and '.join(others)} too")


def _first_text(name: str, text: object, get_tokenizer: Callable[[], PartEncoder]) -> list[int]:
    _check_text(name, text)
    return get_tokenizer().encode(str(text)) if text else []


def _part_text(name: str, text: object, get_tokenizer: Callable[[], PartEncoder]) -> list[int]:
    _check_text(name, text)
    return get_tokenizer().encode_part(str(text))


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name} must be a text, got {text!r}")


def _id_list(name: str, ids: object, get_tokenizer: Callable[[], PartEncoder]) -> list[int]:
    if not isinstance(ids, list | tuple) or not all(_is_id(token) for token in ids):
        raise RequestError(f"{name} must be a list of token ids, got {ids!r}")
    return list(ids)


def _is_id(token: object) -> TypeGuard[int]:
    return isinstance(token, int) and not isinstance(token, bool)


def _is_count(value: object) -> TypeGuard[int]:
    return _is_id(value) and value >= 1
