"""Token ids as users give them: made plain, and held to the vocabulary."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec


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
