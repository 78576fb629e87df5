"""Training batches: the tasks and a curriculum of simpler skills, without padding.

Sequences of one batch share one task and one length (they are pooled until enough of the
same length have come), so that no position is spent on padding the prompt:

    # ids       |<- prompt ->|<- response ->|<- EOS ... ->|
    # position  0        prompt_len                   prompt_len + canvas_len

The canvas is 32 or 64 long, a whole number of blocks. The curriculum adds:

* ``copy``: a random string of the vocabulary, to be repeated;
* ``lookup``: pairs of key and value, then keys in another order, to be answered by values;
* ``small_sorting``: the sorting task with two to four numbers;
* ``bare_sorting``: two to seven numbers, and no padding after the answer;
* ``few`` and ``bare_few``: the same two with four or five, and three to six, numbers;
* ``facts``: lines ``12 + 7 = 19`` of which only the results are hidden;
* ``steps``: the same as worked steps after a story that has nothing to do with them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from starr_engine.study.tasks import TASKS, Task, split_of
from starr_engine.study.tasks.sorting import Sorting
from starr_engine.study.tasks.word_problems import GAINS, LOSSES, MAX_CHANGE, MAX_TOTAL
from starr_engine.study.tasks.words import NAMES, THINGS

BLOCK_LENGTH: Final = 32
MAX_CANVAS: Final = 64
CUT_SHARE: Final = 0.9
FACTS_PER_LINE_GROUP: Final = 8
STEPS_AFTER_STORY: Final = 5
_PROBLEMS: Final[dict[str, Task]] = {
    **TASKS,
    "sorting": Sorting(4, 7),
    "small_sorting": Sorting(2, 4),
    "bare_sorting": Sorting(2, 7),
    "few": Sorting(4, 5),
    "bare_few": Sorting(3, 6),
}
_CHAINED: Final = ("word_problems", "chains")
_UNPADDED: Final = ("copy", "lookup", "bare_sorting", "bare_few")


@dataclass(frozen=True)
class Batch:
    """Sequences of one length, before masking."""

    task: str
    ids: Tensor
    """int64 [batch, length]"""
    maskable: Tensor
    """bool [batch, length]: positions of the canvas that may be hidden"""
    weight: Tensor
    """float32 [batch, length]: importance in the loss (EOS padding counts less)"""
    prompt_len: int
    whole: bool
    """Hide everything that is maskable, instead of a random share."""
    chain: Tensor
    """bool [batch, length]: computed numbers of worked steps, and where they are used again"""


@dataclass(frozen=True)
class _Example:
    ids: tuple[int, ...]
    hidden: tuple[int, ...]  # maskable positions
    prompt_len: int
    used_len: int  # positions from here on are EOS padding
    chain: tuple[int, ...] = ()


class BatchMaker:
    """Draws batches; the stream depends on the seed alone."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        eos_weight: float,
        cut_to: int | None = None,
    ) -> None:
        """Start a stream.

        Args:
            tokenizer: Of the tiny models.
            seed: The stream depends on it alone.
            eos_weight: Of the padding after an answer.
            cut_to: Block length of a block-causal model: in most examples the canvas ends with
                the block that holds the first EOS, because nothing before depends on the rest.
        """
        self.rng = random.Random(seed)
        self._eos_weight = eos_weight
        self._cut_to = cut_to
        self._tokenizer = tokenizer
        self._eos = int(tokenizer.eos_token_id)
        vocab = tokenizer.get_vocab()
        self._id = vocab
        special = set(tokenizer.all_special_ids)
        # whole words and numbers: what answers copy out of prompts
        self._words = sorted(
            i for piece, i in vocab.items() if piece.isalnum() and i not in special
        )
        self._pools: dict[tuple[str, int, int], list[_Example]] = defaultdict(list)

    def state(self) -> dict[str, Any]:
        """Everything that the next batch depends on."""
        pools = [[*key, [asdict(example) for example in pool]] for key, pool in self._pools.items()]
        return {"rng": self.rng.getstate(), "pools": pools}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what ``state`` gave, also after it has been through JSON."""
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self._pools.clear()
        for task, prompt_len, length, pool in state["pools"]:
            self._pools[task, prompt_len, length] = [
                _Example(
                    **{
                        name: tuple(value) if isinstance(value, list) else value
                        for name, value in example.items()
                    }
                )
                for example in pool
            ]

    def draw(self, task: str, num_positions: int, short_share: float) -> Batch:
        """Return sequences of one length.

        Args:
            task: A name in ``TASKS``, or one of the curriculum's (see the top of the file).
            num_positions: Sequences are added until they hold at least this many positions,
                so that batches of short and of long sequences cost and count the same.
            short_share: Share of examples that get a canvas of 32 where the answer fits.
        """
        while True:
            example = self._make(task, short_share)
            key = (task, example.prompt_len, len(example.ids))
            pool = self._pools[key]
            pool.append(example)
            if len(pool) * len(example.ids) >= num_positions:
                self._pools[key] = []
                return self._collate(task, pool)

    def _make(self, task: str, short_share: float) -> _Example:
        if task == "facts":
            return self._facts()
        if task == "steps":
            return self._steps()
        if task == "copy":
            prompt, response = self._copy()
        elif task == "lookup":
            prompt, response = self._lookup()
        else:
            prompt, response = self._problem(task)
        short = len(response) < BLOCK_LENGTH and self.rng.random() < short_share
        canvas = BLOCK_LENGTH if short else MAX_CANVAS
        if task in _UNPADDED:
            canvas = len(response) + 1  # these are about the skill alone
        elif self._cut_to and self.rng.random() < CUT_SHARE:
            used = len(prompt) + len(response) + 1
            canvas = min(canvas, used + -used % self._cut_to - len(prompt))
        padding = [self._eos] * (canvas - len(response))
        ids = (*prompt, *response, *padding)
        used = len(prompt) + len(response) + 1
        chain = self._chain(ids, len(prompt)) if task in _CHAINED else ()
        return _Example(ids, tuple(range(len(prompt), len(ids))), len(prompt), used, chain)

    def _chain(self, ids: tuple[int, ...], start: int) -> tuple[int, ...]:
        """Return the positions from ``start`` on that hold a result, or repeat one."""
        results: set[int] = set()
        positions = []
        for position in range(start + 1, len(ids)):
            if ids[position - 1] == self._id["="]:
                results.add(ids[position])
            if ids[position] in results:
                positions.append(position)
        return tuple(positions)

    def _problem(self, task: str) -> tuple[list[int], list[int]]:
        while True:
            problem = _PROBLEMS[task].generate(self.rng)
            if split_of(problem.prompt) == "train":
                return self._encode(problem.prompt), self._encode(problem.reference)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _copy(self) -> tuple[list[int], list[int]]:
        words = [self.rng.choice(self._words) for _ in range(self.rng.randint(3, 12))]
        return [*words, self._id["="]], words

    def _lookup(self) -> tuple[list[int], list[int]]:
        count = self.rng.randint(2, 5)
        keys = self.rng.sample(self._words, count)
        values = [self.rng.choice(self._words) for _ in keys]
        prompt = [i for k, v in zip(keys, values, strict=True) for i in (k, self._id[":"], v)]
        order = self.rng.sample(range(count), count)
        response = [i for o in order for i in (keys[o], self._id['":'], values[o])]
        return [*prompt, self._id["="]], response

    def _facts(self) -> _Example:
        ids: list[int] = []
        hidden = []
        for _ in range(FACTS_PER_LINE_GROUP):
            a, sign, b, result = _fact(self.rng)
            hidden.append(len(ids) + 4)
            ids += [self._id[piece] for piece in (str(a), sign, str(b), "=", str(result), "\n")]
        return _Example(tuple(ids), tuple(hidden), 0, len(ids))

    def _steps(self) -> _Example:
        """Return unconnected lines in the form of worked steps, mostly after a story."""
        story = _PROBLEMS["word_problems"].generate(self.rng).prompt
        ids = self._encode(story) if self.rng.random() < 0.7 else []
        hidden = []
        for _ in range(STEPS_AFTER_STORY):
            a, sign, b, result = _fact(self.rng)
            step = f"{a} {sign} {b} = {result}"
            if sign == "*":
                line = f"Start: {step} {self.rng.choice(THINGS)}\n"
            elif b <= MAX_CHANGE and self.rng.random() < 0.8:
                verb = self.rng.choice(GAINS if sign == "+" else (*LOSSES, "gives", "gives"))
                line = f"{verb} {b}: {step}\n"
            else:
                line = f"{self.rng.choice(('together', *NAMES[:20]))}: {step}\n"
            piece = self._encode(line)
            hidden.append(len(ids) + piece.index(self._id["="]) + 1)
            ids += piece
        return _Example(tuple(ids), tuple(hidden), 0, len(ids))

    def _collate(self, task: str, pool: list[_Example]) -> Batch:
        ids = torch.tensor([example.ids for example in pool])
        maskable = torch.zeros_like(ids, dtype=torch.bool)
        chain = torch.zeros_like(maskable)
        weight = torch.ones(ids.shape)
        for row, example in enumerate(pool):
            maskable[row, list(example.hidden)] = True
            weight[row, example.used_len :] = self._eos_weight
            chain[row, list(example.chain)] = True
        whole = task in ("facts", "steps")
        return Batch(task, ids, maskable, weight, pool[0].prompt_len, whole, chain)


def _fact(rng: random.Random) -> tuple[int, str, int, int]:
    """Return one sum, difference or product of the kinds that the word problems use."""
    kind = rng.random()
    if kind < 0.42:
        a, b = rng.randint(5, MAX_TOTAL - MAX_CHANGE), rng.randint(2, MAX_CHANGE)
        return a, "+", b, a + b
    if kind < 0.84:
        a, b = rng.randint(MAX_CHANGE + 1, MAX_TOTAL), rng.randint(2, MAX_CHANGE)
        return a, "-", b, a - b
    if kind < 0.92:
        a = rng.randint(3, 22)
        b = max(2, a + rng.randint(-8, 8))
        return a, "+", b, a + b
    a, b = rng.randint(2, 6), rng.randint(2, 9)
    return a, "*", b, a * b


def hide(
    batch: Batch, mask_id: int, generator: torch.Generator, chain_share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask a batch as LLaDA's fine-tuning does, or as block-by-block decoding looks.

    Half of the time every position of the canvas is hidden with probability t, where t is
    spread evenly over (0, 1) within the batch. Otherwise one block is active: it is hidden
    with probability t, the blocks before it are clean and those after it are all masks.

    A result that is hidden while the next step still shows it needs no computing. So in a
    share ``chain_share`` of the rows that have computed numbers, all of those are hidden from
    some position on, with few of the other tokens: the state in which decoding meets them.

    Returns:
        Input ids [batch, length]; hidden positions, bool [batch, length]; and the weight of
        each position's loss, float32 [batch, length], importance times 1/t, at most 4.
    """
    size, length = batch.ids.shape
    if batch.whole:
        return batch.ids.masked_fill(batch.maskable, mask_id), batch.maskable, batch.weight
    offset = torch.rand(1, generator=generator)
    share = ((torch.arange(size) / size + offset) % 1.0).clamp(0.02, 1.0)[:, None]
    hidden = torch.rand(size, length, generator=generator) < share
    scale = (1.0 / share).clamp(max=4.0).expand(size, length).clone()
    canvas_blocks = (length - batch.prompt_len) // BLOCK_LENGTH
    if canvas_blocks > 1:
        block = (torch.arange(length) - batch.prompt_len).div(BLOCK_LENGTH, rounding_mode="floor")
        active = torch.randint(-canvas_blocks, canvas_blocks, (size, 1), generator=generator)
        later = (active >= 0) & (block > active)
        earlier = (active >= 0) & (block < active)
        hidden = (hidden | later) & ~earlier
        scale = scale.masked_fill(later, 1.0)
    if chain_share and batch.chain.any():
        chosen = torch.rand(size, 1, generator=generator) < chain_share
        order = batch.chain.cumsum(dim=1)  # 1 for the first number of the chain, then 2, ...
        first = torch.rand(size, 1, generator=generator) * order[:, -1:]
        others = torch.rand(size, length, generator=generator) < 0.4 * share**2
        hidden = torch.where(chosen, (batch.chain & (order > first)) | others, hidden)
        scale = torch.where(chosen, 1.5, scale)
    hidden &= batch.maskable
    return batch.ids.masked_fill(hidden, mask_id), hidden, batch.weight * scale
