"""Tokenizers that a checkpoint keeps as a vocabulary and a list of merges.

Some checkpoints hold no ``tokenizer.json``, because their tokenizer is a class of their own code.
Where that class is known to compute what Qwen2's does, the same tokenizer is put together from its
files, and nothing of the checkpoint is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starr_engine.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer
    from transformers import PreTrainedTokenizerFast

TOKENIZER_JSON: Final = "tokenizer.json"
SETTINGS: Final = "tokenizer_config.json"
VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"
CHAT_TEMPLATE: Final = "chat_template.jinja"

QWEN2_CLASSES: Final = ("DreamTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")
"""Values of ``tokenizer_class`` that split and merge as Qwen2 does; Dream's published file has its
pattern, its normalisation and its byte alphabet."""

WORD_PATTERN: Final = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # endings of English
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one other character in front
        r"\p{N}",  # every digit for itself
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # the rest, up to the end of the line
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""What Qwen2 takes as words, within which merges happen."""

_SPECIAL_NAMES: Final = ("bos_token", "eos_token", "pad_token", "mask_token", "unk_token")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer, in one file or in pieces."""
    return (folder / TOKENIZER_JSON).is_file() or (folder / VOCABULARY).is_file()


def build_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Put a tokenizer together from ``vocab.json``, ``merges.txt`` and its settings.

    Args:
        folder: Holds the three files, and maybe ``chat_template.jinja``.

    Raises:
        ConfigError: If a file is missing or malformed, the class is not one of
            ``QWEN2_CLASSES``, or two tokens have one id.
    """
    from transformers import PreTrainedTokenizerFast  # slow to import: only when a model loads

    settings = _read_object(folder / SETTINGS)
    name = settings.get("tokenizer_class")
    if name not in QWEN2_CLASSES:
        raise ConfigError(
            f"{folder} has {VOCABULARY} and no {TOKENIZER_JSON}, and how its tokenizer_class "
            f"{name!r} splits text is not known here, only that of {', '.join(QWEN2_CLASSES)}; "
            f"save the tokenizer with its own code once, so that there is a {TOKENIZER_JSON}"
        )
    template = settings.get("chat_template")
    if (folder / CHAT_TEMPLATE).is_file():
        template = (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast  # it has no types
    return wrap(
        tokenizer_object=_assemble(folder, _added(folder, settings)),
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **{key: _text(settings[key]) for key in _SPECIAL_NAMES if settings.get(key) is not None},
    )


def _assemble(folder: Path, added: Mapping[int, Mapping[str, Any]]) -> FastTokenizer:
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as FastTokenizer

    vocabulary = _read_object(folder / VOCABULARY)
    if not all(isinstance(key, int) for key in vocabulary.values()):
        raise ConfigError(f"{folder / VOCABULARY} must map tokens to ids")
    # As entries of the vocabulary, which no merge yields, they keep their ids whatever the gaps.
    ids = vocabulary | {token["content"]: key for key, token in added.items()}
    if len(set(ids.values())) < len(ids) or any(
        ids[text] != vocabulary[text] for text in vocabulary
    ):
        raise ConfigError(f"{folder}: {VOCABULARY} and {SETTINGS} give one id to two tokens")
    try:
        fast = FastTokenizer(models.BPE(vocab=ids, merges=_read_merges(folder / MERGES)))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(
            f"{folder}: {VOCABULARY} and {MERGES} make no tokenizer: {error}"
        ) from error
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    for key in sorted(added):
        token = dict(added[key])
        entry = AddedToken(
            token.pop("content"),
            special=bool(token.get("special", False)),
            **{
                flag: bool(token.get(flag, False))
                for flag in ("single_word", "lstrip", "rstrip", "normalized")
            },
        )
        fast.add_tokens([entry])
    return fast


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Id -> content and flags of the tokens that stand for themselves."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, Mapping) or not all(
        key.isdecimal() and isinstance(token, Mapping) and isinstance(token.get("content"), str)
        for key, token in listed.items()
    ):
        raise ConfigError(
            f"{folder / SETTINGS}: added_tokens_decoder must map ids to objects with a content"
        )
    return {int(key): token for key, token in listed.items()}


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    pairs = [tuple(line.split()) for line in lines if line.strip()]
    for pair in pairs:
        if len(pair) != 2:
            raise ConfigError(f"{path}: a line must hold two pieces, got {' '.join(pair)!r}")
    return [(first, second) for first, second in pairs]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent} has no {path.name}, which its tokenizer needs; copy it from the "
            "published checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return content


def _text(token: object) -> str:
    return str(token.get("content")) if isinstance(token, Mapping) else str(token)
