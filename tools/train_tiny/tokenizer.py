"""Build the tokenizer of the tiny models: one id per word, number or piece of syntax.

A word has one id whether or not a space precedes it, so that copying a word is the
identity on ids. Spaces are therefore not stored; the decoder puts them back by rule, and
the rules are exact for every text that the tasks produce (and for ordinary English).
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from starr_engine.study.tasks import TASKS

UNK: Final = "<unk>"
BOS: Final = "<|startoftext|>"
EOS: Final = "<|endoftext|>"  # also the padding, as in LLaDA
MASK: Final = "<|mdm_mask|>"
SPECIALS: Final = (
    UNK, BOS, EOS, MASK, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip
NUM_NUMBERS: Final = 200  # the integers 0..199 have one token each
VOCAB_MULTIPLE: Final = 64

# Alternatives are tried from left to right, so the merged pieces of JSON and of code come first.
PIECE: Final = (
    r"\n(?:    )*"
    r'|\{"|": "|", "|":|, "|"\}|"'
    r"|\.append\(|\):|\[\]"
    r"|[A-Za-z_]+|\d+|[-+*=<>!]=|\S"
)
SYNTAX: Final = (
    "\n", "\n    ", "\n        ", "\n            ", '{"', '": "', '", "', '":', ', "', '"}', '"',
    ".append(", "):", "[]", "+=", "-=", "*=", "==", "!=", "<=", ">=", *"+-*/%=<>()[]{}.,:;!?'&$#@_",
)  # fmt: skip

# Each rule deletes one space that the decoder put between two tokens.
SPACE_RULES: Final = (
    r" (?=\n)",  # before a line break
    r"(?<=\n|\n    |\n        |\n            ) (?=\S)",  # after a line break and its indent
    r"(?<=\S) (?=[.,?;:)\]}(]|!(?!=)|\"[:,}])",  # before closing punctuation, quotes and calls
    r"(?<=[(\[]) ",  # after an opening bracket
    r"(?<=\{\"|\": \"|, \") ",  # inside the quotes of JSON
)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""A message is rendered as its bare text: what a user types, and what training showed."""


def build_tokenizer(samples_per_task: int = 20_000) -> PreTrainedTokenizerFast:
    """Return the tokenizer whose words are those that the tasks use.

    Args:
        samples_per_task: Problems looked at per task to collect the words. The word lists
            are small, so that every word turns up hundreds of times.
    """
    words = set()
    for name, task in TASKS.items():
        rng = random.Random(f"{name}/vocabulary")
        for _ in range(samples_per_task):
            problem = task.generate(rng)
            words.update(re.findall(PIECE, problem.prompt))
            words.update(re.findall(PIECE, problem.reference))
    fixed = [*SPECIALS, *(str(n) for n in range(NUM_NUMBERS)), *SYNTAX]
    pieces = fixed + sorted(words - set(fixed))
    spare = -len(pieces) % VOCAB_MULTIPLE
    pieces += [f"<|reserved_{i}|>" for i in range(spare)]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.Split(Regex(r"\A[ \t\r]+\z"), "removed"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\x00", cleanup=False),  # a space before every token
            decoders.Fuse(),
            *(decoders.Replace(Regex(rule), "") for rule in SPACE_RULES),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["chat_template"] = CHAT_TEMPLATE  # readable also by versions that want it here
    path.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    special = {
        "bos_token": BOS, "eos_token": EOS, "mask_token": MASK, "pad_token": EOS, "unk_token": UNK
    }  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def main() -> None:
    """Write the tokenizer into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    save_tokenizer(parser.parse_args().output)


if __name__ == "__main__":
    main()
