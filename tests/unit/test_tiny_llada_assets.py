"""The shipped model's folder: its tokenizer, its format and the shipped problems."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import starr_engine.study.tasks as tasks

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")

ASSETS = Path(tasks.__file__).parents[2] / "assets"
MODEL = ASSETS / "tiny-llada"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.mark.parametrize("name", sorted(tasks.ALL_TASKS))
def test_decoding_gives_back_every_prompt_and_reference(tokenizer: Any, name: str) -> None:
    rng = random.Random(f"round trip {name}")
    for _ in range(300):
        problem = tasks.ALL_TASKS[name].generate(rng)
        for text in (problem.prompt, problem.reference):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
            padded = [*ids, tokenizer.eos_token_id, tokenizer.eos_token_id]
            assert tokenizer.decode(padded, skip_special_tokens=True) == text


def test_a_word_has_one_id_with_and_without_a_space_before_it(tokenizer: Any) -> None:
    alone, inside = tokenizer("Paris").input_ids, tokenizer('in Paris, "Paris"').input_ids
    assert len(alone) == 1
    assert inside.count(alone[0]) == 2


def test_small_integers_are_one_token(tokenizer: Any) -> None:
    ids = [tokenizer(str(number)).input_ids for number in range(200)]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 200


def test_chat_shows_the_model_what_a_plain_prompt_shows(tokenizer: Any) -> None:
    text = "Put in rising order: 40, 2, 17, 5"
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == text


def test_special_tokens_agree_with_the_configuration(tokenizer: Any) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["mask_token_id"] == tokenizer.mask_token_id
    assert config["eos_token_id"] == config["pad_token_id"] == tokenizer.eos_token_id
    assert config["vocab_size"] == config["embedding_size"] == len(tokenizer)
    assert tokenizer.decode([tokenizer.mask_token_id]) == "<|mdm_mask|>"


def test_tensors_have_the_published_names_and_are_small() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    attention = ["attn_norm", "q_proj", "k_proj", "v_proj", "attn_out"]
    layer = [*attention, "ff_norm", "ff_proj", "up_proj", "ff_out"]
    expected = {"model.transformer.wte.weight", "model.transformer.ln_f.weight"}
    for index in range(config["n_layers"]):
        expected |= {f"model.transformer.blocks.{index}.{name}.weight" for name in layer}
    with safetensors.safe_open(MODEL / "model.safetensors", "pt") as file:
        assert set(file.keys()) == expected
        assert {file.get_slice(name).get_dtype() for name in expected} == {"BF16"}
    assert (MODEL / "model.safetensors").stat().st_size < 8 * 2**20


def test_the_shipped_problems_are_unseen_and_scorable() -> None:
    rows = [json.loads(line) for line in (ASSETS / "problems.jsonl").read_text().splitlines()]
    problems = [tasks.Problem(**row) for row in rows]
    assert len({p.id for p in problems}) == len(problems) == 300
    for name, task in tasks.TASKS.items():
        mine = [p for p in problems if p.task == name]
        assert len(mine) == 60
        assert all(tasks.split_of(p.prompt) == "demo" for p in mine)
        assert all(task.score_many(mine, [p.reference for p in mine]))
