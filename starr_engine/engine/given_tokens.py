"""What tokens given for the masks of a template must be."""

from __future__ import annotations

from collections.abc import Sequence

from starr_engine.errors import RequestError
from starr_engine.models.base import ModelSpec


def check_given(
    given: Sequence[int],
    prompt_len: int,
    template: Sequence[int],
    block_length: int,
    spec: ModelSpec,
) -> None:
    """Check that the masks are one block, which all given tokens fill.

    Args:
        given: One id for each mask.
        prompt_len: Ids in front of the template.
        template: Ids, masks among them.
        block_length: Of the request.
        spec: Of the model.

    Raises:
        RequestError: If they do not fill one block; or if, of a block-causal model, something
            stands behind that block, where nobody would see it.
    """
    masks = [at for at, token in enumerate(template) if token == spec.mask_token_id]
    span = masks[-1] - masks[0] + 1 if masks else 0
    if len(masks) != len(given) or span > block_length:
        raise RequestError(
            f"given must have one token for each token to generate, and at most block_length="
            f"{block_length} positions from the first to the last, got {len(given)} "
            f"tokens for {len(masks)} masks over {span} positions"
        )
    if spec.mask_block is None or not masks:
        return
    first = prompt_len + masks[0]
    start = first if spec.opens_block else first - first % block_length
    length = prompt_len + len(template)
    if length > start + block_length:
        raise RequestError(
            "given tokens of this model must lie in one of its blocks, with all that the template "
            f"holds behind them: {block_length} positions from position {start} on; the template "
            f"ends at {length}"
        )
