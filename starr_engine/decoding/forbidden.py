"""Tokens that a request must not generate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def forbid(logits: Tensor, requests: Sequence[tuple[int, tuple[int, ...]]]) -> None:
    """Give tokens no probability, in place: they are no candidates and weigh in no confidence.

    Args:
        logits: [M, V], of the requests one after another.
        requests: Rows of each request, and the ids forbidden to it.
    """
    first = 0
    for num_rows, ids in requests:
        if ids:
            columns = torch.tensor(ids, device=logits.device)
            logits[first : first + num_rows, columns] = -torch.inf
        first += num_rows
