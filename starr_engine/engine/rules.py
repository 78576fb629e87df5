"""From a request's parameters to the rules its logits obey, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable

from starr_engine.decoding.bad_words import BadWords
from starr_engine.decoding.logits import TokenRules
from starr_engine.engine.stopping import StopRule
from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec
from starr_engine.params import SamplingParams
from starr_engine.tokenization import Tokenizer


def make_rules(
    params: SamplingParams,
    spec: ModelSpec,
    stop_rule: StopRule,
    tokenizer: Tokenizer | None,
    *,
    forbid_eos: bool = False,
) -> TokenRules:
    """What ``params`` asks of the logits.

    Args:
        params: Of the request.
        spec: Of the model.
        stop_rule: Knows what ends an output.
        tokenizer: For bad words.
        forbid_eos: For requests whose end is given, as templates are.

    Raises:
        RequestError: If an id is not the model's or is its mask token, a bad word has no tokens,
            or nothing is left to generate.
    """
    allowed = params.allowed_token_ids
    _check_ids("logit_bias", params.logit_bias, spec)
    _check_ids("allowed_token_ids", allowed or (), spec)
    words = _bad_words(params.bad_words, spec, tokenizer)
    forbidden = {word[0] for word in words if len(word) == 1}
    if params.suppress_eos or forbid_eos:
        forbidden.update(spec.eos_token_ids)
    barred = forbidden | {spec.mask_token_id}
    if len(barred) >= spec.vocab_size if allowed is None else barred.issuperset(allowed):
        raise RequestError(
            "no token is left to generate; relax allowed_token_ids, bad_words or suppress_eos"
        )
    known = range(spec.vocab_size)
    long_words = tuple(word for word in words if len(word) > 1)
    return TokenRules(
        forbidden_ids=tuple(sorted(forbidden)),
        allowed_ids=None if allowed is None else tuple(sorted(set(allowed))),
        bad_words=BadWords(words=long_words) if long_words else None,
        min_tokens=params.min_tokens,
        end_ids=tuple(token for token in stop_rule.end_ids(params) if token in known),
        bias_ids=tuple(params.logit_bias),
        bias=tuple(params.logit_bias.values()),
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        uncounted_ids=spec.eos_token_ids,
        late_ids=_late_ids(params, spec) if params.eos_last else (),
    )


def _late_ids(params: SamplingParams, spec: ModelSpec) -> tuple[int, ...]:
    # The EoT of a chat model is no EOS of its checkpoint: users name it as a stop token.
    stops = (token for token in params.stop_token_ids if token < spec.vocab_size)
    return (*spec.eos_token_ids, *stops)


def _check_ids(field: str, ids: Iterable[int], spec: ModelSpec) -> None:
    for token in ids:
        if token >= spec.vocab_size:
            raise RequestError(
                f"{field} names token {token}, outside the vocabulary of {spec.vocab_size} ids"
            )
        if token == spec.mask_token_id:
            raise RequestError(f"{field} names the mask token (id {token}), which is no output")


def _bad_words(
    texts: tuple[str, ...], spec: ModelSpec, tokenizer: Tokenizer | None
) -> tuple[tuple[int, ...], ...]:
    """Token sequences of each text, as it is at the start of a line and behind a space."""
    if texts and tokenizer is None:
        raise RequestError("bad_words need a tokenizer, and this model folder has none")
    words: dict[tuple[int, ...], None] = {}
    for text in texts:
        assert tokenizer is not None
        for spelled in (text.lstrip(), " " + text.lstrip()):
            ids = tuple(tokenizer.encode_word(spelled))
            if not ids or spec.mask_token_id in ids:
                what = "contains the mask token" if ids else "has no tokens"
                raise RequestError(f"bad_words: {text!r} {what}; remove it")
            words[ids] = None
    return tuple(words)
