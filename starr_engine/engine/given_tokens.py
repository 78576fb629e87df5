"""What tokens that are given for the masks of a template must be."""

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
    """Check that all masks lie in the block that the template begins, and that each has a token.

    Args:
        given: One id for each mask.
        prompt_len: Ids in front of the template.
        template: Ids, masks among them.
        block_length: Of the request.
        spec: Of the model.

    Raises:
        RequestError: If they do not; or if, of a model that sees nothing behind a block, something
            stands there.
    """
    masks = [at for at, token in enumerate(template) if token == spec.mask_token_id]
    # Blocks of such a mask are counted from the first position, others from the template.
    has_edges = spec.attention_kind == "block_causal"
    room = block_length - (prompt_len % block_length if has_edges else 0)
    last = masks[-1] + 1 if masks and spec.mask_block is None else len(template)
    if len(masks) != len(given) or last > room:
        raise RequestError(
            "given must have one token for each token to generate, all in one block of at most "
            f"block_length={block_length} positions, of which {room} are left for the template; "
            f"got {len(given)} tokens for {len(masks)} masks over {last} positions"
        )
