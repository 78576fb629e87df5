"""Token ids as users give them: made plain, and held to the vocabulary."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from starr_engine.errors import RequestError
from starr_engine.infilling import Template, refuse_stops
from starr_engine.models.base import ModelSpec
from starr_engine.params import SamplingParams


def plain_ids(ids: Sequence[int]) -> list[int]:
    """Integers of any kind, numpy's and torch's too, as Python's; never a rounded float.

    Raises:
        RequestError: If one is no integer; says where it stands.
    """
    plain: list[int] = []
    for at, token in enumerate(ids):
        try:
            if isinstance(token, bool):
                raise TypeError
            plain.append(operator.index(token))
        except TypeError:
            raise RequestError(
                f"prompt_token_ids must hold integers, got {token!r} at position {at}"
            ) from None
    return plain


def check_vocabulary(spec: ModelSpec, where: str, ids: list[int]) -> None:
    """Refuse ids that the model does not have, and its mask token.

    Raises:
        RequestError: Names ``where``, the first such token and its position.
    """
    for at, token in enumerate(ids):
        if not 0 <= token < spec.vocab_size:
            raise RequestError(
                f"{where} token {token} at position {at} is outside the vocabulary of "
                f"{spec.vocab_size} ids"
            )
        if token == spec.mask_token_id:
            raise RequestError(
                f"the {where} holds the mask token (id {token}) at position {at}; masks stand "
                "for tokens to generate, so remove it"
            )


def template_ids(
    spec: ModelSpec, template: Template, params: SamplingParams, *, may_end_fixed: bool
) -> list[int]:
    """The template with masks for None, checked.

    Args:
        spec: Of the model.
        template: Fixed ids, and None for each token to generate.
        params: Of the request.
        may_end_fixed: Whether ids may stand behind the last None of a model that sees nothing
            behind a block: within the block, which is for the caller to check.

    Raises:
        RequestError: If it cannot be filled with these parameters.
    """
    refuse_stops(params)
    fixed = plain_ids([token for token in template if token is not None])
    check_vocabulary(spec, "template", fixed)
    if len(fixed) == len(template):
        raise RequestError("the template has nothing to generate; leave at least one place")
    if spec.mask_block is not None and template[-1] is not None and not may_end_fixed:
        raise RequestError(
            "this model sees nothing behind what it writes, so the text behind the last gap "
            "would be ignored; use a bidirectional model, or leave that text out"
        )
    given = iter(fixed)
    return [spec.mask_token_id if token is None else next(given) for token in template]
