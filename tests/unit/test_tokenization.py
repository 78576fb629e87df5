"""Text to ids and back, on a tokenizer built on the spot."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from starr_engine.errors import ConfigError, RequestError
from starr_engine.tokenization import Tokenizer
from tools.train_tiny.tokenizer import MASK as TINY_MASK
from tools.train_tiny.tokenizer import build_tokenizer

WORDS = ("<unk>", "<eos>", "<mask>", "sort", "three", "numbers", "user", "assistant", ":", "\n")
MASK = 2
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def save_words(folder: Path, chat_template: str | None) -> Path:
    fast = FastTokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens([AddedToken(w, special=True) for w in WORDS[:3]])
    fast.enable_truncation(max_length=4)  # stored by some checkpoints; must not cut prompts
    PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", eos_token="<eos>", chat_template=chat_template
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(save_words(tmp_path_factory.mktemp("words"), TEMPLATE), MASK)


def test_a_prompt_becomes_its_ids_uncut(words: Tokenizer) -> None:
    assert words.encode("sort three numbers sort three") == [3, 4, 5, 3, 4]


def test_the_mask_token_in_a_prompt_is_refused_by_name(words: Tokenizer) -> None:
    with pytest.raises(RequestError, match="contains the mask token <mask>"):
        words.encode("sort <mask> numbers")


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_prompt_is_refused(words: Tokenizer, text: str) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        words.encode(text)


def test_a_lone_surrogate_is_refused(words: Tokenizer) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        words.encode("sort \ud800")


def test_a_conversation_goes_through_the_template_up_to_the_answer(words: Tokenizer) -> None:
    ids = words.encode_chat([{"role": "user", "content": "sort numbers"}])
    assert ids == [6, 8, 3, 5, 7, 8]  # user : sort numbers assistant :


def test_the_mask_token_in_a_message_is_refused(words: Tokenizer) -> None:
    with pytest.raises(RequestError, match="mask token"):
        words.encode_chat([{"role": "user", "content": "a<mask>b"}])


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "non-empty list"),
        ("hello", "non-empty list"),
        ([{"role": "user"}], r"messages\[0\] must be"),
        ([{"role": "user", "content": "a", "name": "b"}], r"messages\[0\] must be"),
        ([{"role": "user", "content": "a"}, {"role": 1, "content": "b"}], r"messages\[1\].role"),
        ([{"role": "user", "content": None}], r"messages\[0\].content"),
    ],
)
def test_malformed_messages_are_refused(words: Tokenizer, messages: list, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        words.encode_chat(messages)


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(save_words(tmp_path, None), MASK)
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "sort"}])


def test_a_template_that_refuses_is_an_error_of_the_request(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    tokenizer = Tokenizer.from_folder(save_words(tmp_path, template), MASK)
    with pytest.raises(RequestError, match="roles must alternate"):
        tokenizer.encode_chat([{"role": "user", "content": "sort"}])


def test_a_folder_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path, MASK)


def test_a_broken_tokenizer_file_is_a_config_error(tmp_path: Path) -> None:
    save_words(tmp_path, None)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path, MASK)


def test_special_tokens_are_not_part_of_the_text(words: Tokenizer) -> None:
    assert words.decode([3, 1, 5, 1, 1]) == "sort numbers"


def test_the_tiny_models_text_only_ever_grows() -> None:
    # Its decoder puts spaces by rules; one that looked back too far would change a streamed block.
    backend = build_tokenizer(samples_per_task=300)
    tiny = Tokenizer(backend, int(backend.convert_tokens_to_ids(TINY_MASK)))
    indent = backend.convert_tokens_to_ids("\n        ")
    rng = random.Random(0)
    for _ in range(1000):
        ids = [indent if rng.random() < 0.2 else rng.randrange(len(backend)) for _ in range(12)]
        texts = [tiny.decode(ids[:count]) for count in range(len(ids) + 1)]
        assert all(later.startswith(text) for text, later in pairwise(texts))
