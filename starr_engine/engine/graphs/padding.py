"""A step's rows on the grid of a recording.

Letters: N sequences of Q rows, W pages of each, as in ``graphs/buckets.py``; T rows of the step, M
with logits.
"""

from __future__ import annotations

import numpy as np
import torch

from starr_engine.attention.sequences import Sequences
from starr_engine.engine.carried_rows import KNOWN, NOT_KEPT
from starr_engine.engine.graphs.recording import Bucket
from starr_engine.engine.packed_arrays import PackedArrays
from starr_engine.engine.step_arrays import StepArrays


def grid_arrays(bucket: Bucket, device: torch.device, num_facts: int = 0) -> PackedArrays:
    """The arrays that a recording reads, not yet filled, and ``StepBatch.facts`` behind them.

    ``row_sources`` and ``row_owners`` are read in front of it, see ``CarriedRows``.
    """
    rows, sequences = (bucket.num_rows,), (bucket.num_sequences,)
    bounds = (bucket.num_sequences + 1,)
    return PackedArrays(
        {
            "input_ids": (rows, torch.int64),
            "positions": (rows, torch.int64),
            "slot_mapping": (rows, torch.int64),
            "row_sources": (rows, torch.int64),
            "row_owners": (rows, torch.int64),
            "logits_rows": (rows, torch.int64),
            "page_table": ((bucket.num_sequences, bucket.num_pages), torch.int32),
            "key_lens": (sequences, torch.int32),
            "cu_keys": (bounds, torch.int32),
            "cu_query": (bounds, torch.int32),
        },
        device,
        tail=num_facts,
    )


def fill_padding(grid: PackedArrays, bucket: Bucket, pad_id: int) -> None:
    """Make the whole grid padding.

    Rows hold ``pad_id`` at position 0 and are not kept; lines read one row of the reserved page 0,
    which nothing is ever written to. All ``logits_rows`` are row 0.

    Args:
        grid: Of :func:`grid_arrays`.
        bucket: Its size.
        pad_id: A token of the vocabulary.
    """
    for name, filler in {
        "input_ids": pad_id, "positions": 0, "slot_mapping": NOT_KEPT, "row_sources": KNOWN,
        "row_owners": KNOWN, "logits_rows": 0,
    }.items():  # fmt: skip
        grid.int64(name).fill(filler)
    grid.int32("page_table").fill(0)
    grid.int32("key_lens").fill(1)
    grid.int32("cu_keys")[:] = np.arange(bucket.num_sequences + 1)
    grid.int32("cu_query")[:] = np.arange(bucket.num_sequences + 1) * bucket.rows_each


def fill_grid(
    grid: PackedArrays, bucket: Bucket, sequences: Sequences, step: StepArrays, pad_id: int
) -> None:
    """Put a step on the grid.

    Every sequence begins a line of the grid; what is left of a line, and lines that are left, are
    padding. ``logits_rows`` are the step's, on the grid; behind the step's M are those of padding.
    The step's facts stay as they are.

    Args:
        grid: Of :func:`grid_arrays`.
        bucket: Holds the sequences.
        sequences: All of the step, in the order of its rows.
        step: As it was laid out without padding.
        pad_id: A token of the vocabulary.
    """
    fill_padding(grid, bucket, pad_id)
    count, packed = len(sequences.owners), step.packed
    grid.tail[:] = packed.tail
    lens = np.array(sequences.query_lens, np.int64)
    shift = np.arange(count) * bucket.rows_each - (np.cumsum(lens) - lens)
    places = np.arange(lens.sum()) + np.repeat(shift, lens)
    names = ["input_ids", "positions", "slot_mapping"]
    if step.is_ahead:
        names += ["row_sources", "row_owners"]
    for name in names:
        grid.int64(name)[places] = packed.int64(name)
    scored = packed.int64("logits_rows")
    grid.int64("logits_rows")[: len(scored)] = places[scored]
    own = packed.int32("page_table")[np.array(sequences.owners), : bucket.num_pages]
    grid.int32("page_table")[:count, : own.shape[1]] = own
    key_lens = grid.int32("key_lens")
    key_lens[:count] = sequences.key_lens
    np.cumsum(key_lens, out=grid.int32("cu_keys")[1:])
