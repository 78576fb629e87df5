"""Texts of the harness to token ids."""

from __future__ import annotations

from starr_engine.models.base import ModelSpec
from starr_engine.tokenization import Tokenizer


def prefix_token_id(tokenizer: Tokenizer, spec: ModelSpec) -> int:
    """What stands in front of a text without a context: BOS, or EOS where there is none."""
    bos = tokenizer.backend.bos_token_id
    return int(spec.eos_token_ids[0] if bos is None else bos)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that begins a prompt; special tokens are not added to one that has BOS.

    Chat templates write it themselves.

    Raises:
        RequestError: If the text contains the mask token or is not valid Unicode.
    """
    bos = tokenizer.backend.bos_token
    if not text or (bos and text.startswith(bos)):
        return tokenizer.encode_part(text)
    return tokenizer.encode(text)
