"""What sampling adds to logits: Gumbel noise that belongs to a seed, a step, a place and a token.

Letters: m scored rows of a request, D rows that are drawn, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.transfer import upload
from starr_engine.ops import NUM_DRAW_OPTIONS
from starr_engine.ops_reference import gumbel, truncate
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
    """What may be drawn at all; see ``ops_reference.truncate``."""


class DrawnRows(NamedTuple):
    """Rows that are drawn, on the device; see ``ops.gumbel_argmax``."""

    rows: Tensor
    """int64 [D]"""

    keys: Tensor
    """int64 [D]"""

    options: Tensor
    """float64 [D, 4]"""


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
    """:class:`DrawnRows` of all draws, as integers to upload."""
    if not draws:
        return (np.empty(0, np.int64),) * 3
    rows = np.concatenate([np.arange(draw.rows.start, draw.rows.stop) for draw in draws])
    options = np.array(
        [(draw.temperature, draw.top_p, draw.top_k, draw.min_p) for draw in draws], np.float64
    )
    each = np.repeat(options, [len(draw.keys) for draw in draws], axis=0)
    return rows, np.concatenate([draw.keys for draw in draws]), each.view(np.int64)


def drawn_rows(rows: Tensor, keys: Tensor, options: Tensor) -> DrawnRows:
    """What :func:`drawn_columns` gave, flat and on the device."""
    return DrawnRows(rows, keys, options.view(torch.float64).view(-1, NUM_DRAW_OPTIONS))


def add_gumbel(logits: Tensor, draw: Noise) -> Tensor:
    """``logits`` [m, V] of one request in float64, with the noise of its step and temperature.

    What truncation leaves out is -inf. The mask token's logit must be -inf already.
    """
    noise = gumbel(upload(draw.keys, logits.device), logits.shape[1])
    kept = truncate(logits.double(), draw.temperature, draw.top_p, draw.top_k, draw.min_p)
    return kept + draw.temperature * noise
