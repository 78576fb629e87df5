"""Whole model folders with a tokenizer, made on the spot: random weights, words or bytes."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from tests.helpers.checkpoints import llada_config, write_checkpoint

SPECIALS = ("<unk>", "<eos>", "<bos>", "<mask>")
"""In the order of the ids that ``llada_config`` gives them."""

CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def write_word_model(folder: Path) -> Path:
    """Words are ``w0`` to ``w96``; a prompt and its output together have at most 160 tokens."""
    config = llada_config()
    write_checkpoint(folder, config)
    words = [*SPECIALS, *(f"w{i}" for i in range(config["vocab_size"] - len(SPECIALS)))]
    fast = FastTokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", eos_token="<eos>", chat_template=CHAT_TEMPLATE
    ).save_pretrained(str(folder))
    return folder


def write_byte_model(folder: Path) -> Path:
    """One token per UTF-8 byte, so that most random outputs are torn characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIALS, *alphabet]
    size = len(pieces)
    write_checkpoint(folder, llada_config(vocab_size=size, embedding_size=size))
    fast = FastTokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>").save_pretrained(str(folder))
    return folder
