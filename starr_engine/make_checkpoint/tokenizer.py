"""A tokenizer of the right size, with special tokens at their published ids and filler between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starr_engine.make_checkpoint.published import SpecialTokens


def write_tokenizer(folder: Path, tokens: SpecialTokens) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``.

    Texts become bytes, one token each; ids that are neither a byte nor special stand for filler,
    which no text contains, so that a random model's output can be decoded all the same.

    Args:
        folder: Of the checkpoint.
        tokens: Special tokens and number of ids, at least 256 beside them.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    special = {number: text for text, number in tokens.ids.items()}
    letters = iter(sorted(ByteLevel.alphabet()))
    vocabulary: dict[str, int] = {}
    for number in range(tokens.num_ids):
        text = special.get(number) or next(letters, None) or f"<filler {number}>"
        vocabulary[text] = number
    assert next(letters, None) is None, "there must be an id for every byte"
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, **_FLAGS} for number, text in sorted(special.items())
        ],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    _write(folder / "tokenizer.json", content)
    _write(folder / "tokenizer_config.json", tokenizer_config(tokens))


def tokenizer_config(tokens: SpecialTokens) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``."""
    special = sorted((number, text) for text, number in tokens.ids.items())
    settings = {
        "added_tokens_decoder": {
            str(number): {"content": text, **_FLAGS} for number, text in special
        },
        "bos_token": tokens.bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens.eos,
        "mask_token": tokens.mask,
        "pad_token": tokens.pad,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": tokens.chat_template,
    }
    return {name: value for name, value in settings.items() if value is not None}


_FLAGS = {
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
