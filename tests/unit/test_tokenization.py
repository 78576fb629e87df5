"""Text to ids and back, on a word-level and a byte-level tokenizer built on the spot."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from starr_engine.errors import ConfigError, RequestError
from starr_engine.tokenization import IncrementalDecoder, Tokenizer

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


def make_bytes_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken("<mask>", special=True)])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=fast), mask_token_id=256)


BYTES = make_bytes_tokenizer()
"""One token per byte: every character outside ASCII is torn by some split."""


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


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([], "empty"),
        ([3, len(WORDS)], r"prompt_token_ids\[1\] = 10 is outside the vocabulary \[0, 10\)"),
        ([-1], "outside"),
        ([MASK], "mask token <mask>"),
        ([3, True], "must be an integer"),
        ([3.0], "must be an integer"),
    ],
)
def test_bad_ids_are_refused(words: Tokenizer, ids: list, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        words.check_ids(ids)


def test_good_ids_pass(words: Tokenizer) -> None:
    words.check_ids([0, 1, 3, len(WORDS) - 1])


def test_special_tokens_are_not_part_of_the_text(words: Tokenizer) -> None:
    assert words.decode([3, 1, 5, 1, 1]) == "sort numbers"


@given(st.text(min_size=1).filter(str.strip), st.lists(st.integers(0, 40)))
def test_pieces_join_to_the_whole_text_however_it_is_split(text: str, cuts: list[int]) -> None:
    ids = BYTES.encode(text)
    decoder = IncrementalDecoder(BYTES)
    edges = sorted({0, *(min(cut, len(ids)) for cut in cuts), len(ids)})
    pieces = [decoder.push(ids[a:b]) for a, b in pairwise(edges)]
    pieces.append(decoder.finish())
    assert "".join(pieces) == decoder.text == text
    assert decoder.kept_ids == tuple(ids)


def test_half_a_character_is_held_back_and_given_at_the_end_if_never_completed() -> None:
    ids = BYTES.encode("a\u20ac")  # three bytes of the euro sign after the letter
    decoder = IncrementalDecoder(BYTES)
    assert decoder.push(ids[:2]) == "a"
    assert decoder.push(ids[2:3]) == ""
    assert decoder.finish() == "\ufffd"


def test_a_stop_string_across_two_pushes_never_shows() -> None:
    decoder = IncrementalDecoder(BYTES, stop=("END", "\n\n"))
    pieces = [decoder.push(BYTES.encode(part)) for part in ("one E", "N", "D two", "three")]
    assert pieces == ["one ", "", "", ""]
    assert decoder.finish() == ""
    assert (decoder.text, decoder.stop_string) == ("one ", "END")
    assert decoder.kept_ids == tuple(BYTES.encode("one "))


def test_the_beginning_of_a_stop_string_alone_is_text() -> None:
    decoder = IncrementalDecoder(BYTES, stop=("END",))
    assert [decoder.push(BYTES.encode(part)) for part in ("EEN", "EN")] == ["E", "EN"]
    assert decoder.finish() == "EN"
    assert decoder.text == "EENEN"


def test_the_first_of_two_stop_strings_counts() -> None:
    decoder = IncrementalDecoder(BYTES, stop=("late", "early"))
    assert decoder.push(BYTES.encode("so early, so late")) == "so "
    assert decoder.stop_string == "early"


@given(st.text("abX", min_size=1), st.lists(st.integers(0, 20)))
def test_stopping_cuts_at_the_first_occurrence_however_it_is_split(
    text: str, cuts: list[int]
) -> None:
    ids = BYTES.encode(text)
    decoder = IncrementalDecoder(BYTES, stop=("abX", "XX"))
    edges = sorted({0, *(min(cut, len(ids)) for cut in cuts), len(ids)})
    pieces = [decoder.push(ids[a:b]) for a, b in pairwise(edges)]
    pieces.append(decoder.finish())
    first = min((text.index(stop) for stop in ("abX", "XX") if stop in text), default=len(text))
    assert "".join(pieces) == decoder.text == text[:first]
    assert decoder.kept_ids == tuple(ids[:first])
