"""What sampling adds to logits: Gumbel noise that belongs to a seed, a step, a place and a token.

Letters: m scored rows of a request, D rows that are drawn, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.transfer import upload
from starr_engine.ops_reference import gumbel
from starr_engine.splitmix import WEYL, absorb, mix

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gumbel noise for the consecutive logits rows of one request at one step."""

    rows: slice

    keys: Integers
    """[m] of :func:`row_keys`."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """What may be drawn at all; see :func:`truncate`."""

    @property
    def is_truncated(self) -> bool:
        """Whether some tokens may not be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


class DrawnRows(NamedTuple):
    """Rows that are drawn from whole, on the device; see ``ops.gumbel_argmax``."""

    rows: Tensor
    """int64 [D]"""

    keys: Tensor
    """int64 [D]"""

    temperatures: Tensor
    """float64 [D]"""


def row_keys(seeds: Integers | int, steps: Integers | int, offsets: Integers) -> Integers:
    """What the noise of rows is hashed from.

    A step counts its request's forwards, so that each draws anew; the noise of a position does not
    depend on which others are scored.

    Args:
        seeds: [m] or one for all, of the requests; at least 0.
        steps: [m] or one for all.
        offsets: [m] places within the blocks.

    Returns:
        int64 [m].
    """
    seed, step = (torch.as_tensor(each) for each in (seeds, steps))
    state = absorb(mix(seed + WEYL), step)
    keys: Integers = absorb(state, torch.from_numpy(offsets)).numpy()
    return keys


def drawn_columns(draws: Sequence[Noise]) -> tuple[Integers, Integers, Integers]:
    """:class:`DrawnRows` of all draws without truncation, as integers to upload."""
    whole = [draw for draw in draws if not draw.is_truncated]
    if not whole:
        return (np.empty(0, np.int64),) * 3
    rows = np.concatenate([np.arange(draw.rows.start, draw.rows.stop) for draw in whole])
    counts = [len(draw.keys) for draw in whole]
    temperatures = np.repeat([float(draw.temperature) for draw in whole], counts)
    return rows, np.concatenate([draw.keys for draw in whole]), temperatures.view(np.int64)


def drawn_rows(rows: Tensor, keys: Tensor, temperatures: Tensor) -> DrawnRows:
    """What :func:`drawn_columns` gave, on the device."""
    return DrawnRows(rows, keys, temperatures.view(torch.float64))


def add_gumbel(logits: Tensor, draw: Noise) -> Tensor:
    """``logits`` [m, V] of one request in float64, with the noise of its step and temperature.

    What truncation leaves out is -inf. The mask token's logit must be -inf already.
    """
    noise = gumbel(upload(draw.keys, logits.device), logits.shape[1])
    return truncate(logits.double(), draw) + draw.temperature * noise


def truncate(logits: Tensor, draw: Noise) -> Tensor:
    """-inf for what may not be drawn by softmax(logits / temperature); [m, V] float64.

    In vLLM's order: min-p (arXiv 2407.01082) keeps tokens at least ``min_p`` times as probable as
    the best; top-k keeps the k best and those equal to the last of them; top-p keeps the most
    probable of what is left, lowest id first among equals, until they hold ``top_p`` of its mass.
    At least one token is always kept.
    """
    if draw.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + draw.temperature * math.log(draw.min_p)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if 0 < draw.top_k < logits.shape[-1]:
        last = logits.topk(draw.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    if draw.top_p < 1:
        probabilities = (logits / draw.temperature).softmax(-1)
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        # The mass in front of a token, without its own: the first always stays.
        is_behind = ordered.cumsum(-1) - ordered >= draw.top_p
        logits = logits.masked_fill(is_behind.scatter(1, ids, is_behind), -torch.inf)
    return logits
