"""Tokenizers kept as a vocabulary and merges, against transformers' Qwen2 and published ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from starr_engine import LLM
from starr_engine.errors import ConfigError, RequestError
from starr_engine.tokenization import Tokenizer
from tests.helpers.dream_checkpoints import dream_config, write_dream_checkpoint

TEXTS = [
    "Hello  world\n\n 12345 it's café cafe\u0301 don't\t\r\n x=y+1;  \n  def f():\n\treturn",
    "  leading and trailing  ",
    "你好。世界 🙂 日本語 ẞß naïve İ",
    "ALL'S WELL I'LL",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|mask|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path, **changes: Any) -> dict[str, int]:
    """Files as Dream's; the special tokens have a gap of 3 ids in front. Returns their ids."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet)
    )
    fast.model.save(str(folder))
    merges = (folder / "merges.txt").read_text()
    assert merges.startswith("#version")
    size = fast.get_vocab_size() + 3
    ids = {text: size + n for n, text in enumerate(SPECIALS)}
    settings = {
        "added_tokens_decoder": {
            str(key): {
                "content": text, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": text != "<tool_call>",
            }
            for text, key in ids.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": None,
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "mask_token": {"content": "<|mask|>"},
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    return ids


def test_text_becomes_the_ids_of_qwen2_and_comes_back(tmp_path: Path) -> None:
    ids = write_tokenizer(tmp_path)
    ours = Tokenizer.from_folder(tmp_path, ids["<|mask|>"])
    qwen = Qwen2Tokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    ).backend_tokenizer
    for text in TEXTS:
        assert ours.encode(text) == qwen.encode(text).ids
        assert ours.decode(ours.encode(text)) == text.replace("cafe\u0301", "café")
    # The last one has pieces that only merges give.
    assert len(ours.encode("Hello world")) < len("Hello world")


def test_special_tokens_keep_their_ids_whatever_lies_between(tmp_path: Path) -> None:
    ids = write_tokenizer(tmp_path)
    ours = Tokenizer.from_folder(tmp_path, ids["<|mask|>"])
    chat = ours.encode_chat([{"role": "user", "content": "Hello"}])
    assert chat[0] == ids["<|im_start|>"]
    assert chat.count(ids["<|im_end|>"]) == 1
    assert ours.decode(chat, skip_special_tokens=False) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    # A token that is not special is text; ids without a token are none.
    gap = min(ids.values()) - 1
    assert ours.decode([ids["<tool_call>"], gap, ids["<|im_end|>"]]) == "<tool_call>"
    with pytest.raises(RequestError, match=r"contains the mask token <\|mask\|>"):
        ours.encode("Hello <|mask|>")


def test_a_chat_template_of_its_own_file_goes_first(tmp_path: Path) -> None:
    ids = write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    ours = Tokenizer.from_folder(tmp_path, ids["<|mask|>"])
    assert ours.encode_chat([{"role": "user", "content": "Hello"}]) == ours.encode("Hello")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", None, "has no tokenizer_config.json, which its tokenizer needs"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json must hold a JSON object"),
        ("merges.txt", None, "merges.txt cannot be read"),
        ("merges.txt", "a b c", "merges.txt: a line must hold two pieces, got 'a b c'"),
        ("merges.txt", "H nothing", "vocab.json and merges.txt make no tokenizer"),
        ("vocab.json", "{", "vocab.json cannot be read"),
        ("vocab.json", '{"H": [1]}', "vocab.json must map tokens to ids"),
        ("vocab.json", '{"H": 0, "e": 0}', "give one id to two tokens"),
    ],
)
def test_a_broken_file_is_refused_by_name(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    write_tokenizer(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_folder(tmp_path, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, "how its tokenizer_class 'GPT2Tokenizer' splits"),
        ({"tokenizer_class": None}, "how its tokenizer_class None splits text is not known"),
        ({"added_tokens_decoder": None}, "added_tokens_decoder must map ids to objects"),
        ({"added_tokens_decoder": {"7": "<|mask|>"}}, "added_tokens_decoder must map ids"),
        ({"added_tokens_decoder": {"0": {"content": "<|mask|>"}}}, "give one id to two tokens"),
    ],
)
def test_settings_that_do_not_say_enough_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_tokenizer(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_folder(tmp_path, 5)


def test_a_checkpoint_with_such_a_tokenizer_chats(tmp_path: Path) -> None:
    ids = write_tokenizer(tmp_path)
    config = dream_config(
        vocab_size=max(ids.values()) + 9, mask_token_id=ids["<|mask|>"],
        eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
    )  # fmt: skip
    write_dream_checkpoint(tmp_path, config, seed=4)
    llm = LLM(str(tmp_path), device="cpu", dtype="float32")
    assert llm.engine.spec.eos_token_ids == (ids["<|endoftext|>"], ids["<|im_end|>"])
    [output] = llm.chat([[{"role": "user", "content": "Hello"}]])
    assert output.error is None
    assert output.text == llm.tokenizer.decode(output.token_ids)
