"""Replays the forward of a step from a recording of its bucket."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from starr_engine.attention.fixed import FixedAttention, FixedLayout, RecordableBackend
from starr_engine.cache.pool import KVPool
from starr_engine.engine.carried_rows import CarriedRows
from starr_engine.engine.graphs.buckets import Bucket, BucketRule, eager_reason, step_sequences
from starr_engine.engine.graphs.padding import fill_grid, fill_padding, grid_arrays
from starr_engine.engine.graphs.recorder import Recorder, Run
from starr_engine.engine.packed_arrays import PackedArrays
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.base import DiffusionModel

_TOLERANCE: Final = 0.05
"""Of the largest value: a replay that went wrong is off by more, and rounding by less."""


class Replayed(NamedTuple):
    """What a replay has left; to be read before the next one, on the same stream."""

    hidden: Tensor
    """[N * Q, hidden size] after the final norm."""

    logits_rows: Tensor
    """[M] int64, the step's scored rows in it."""


def _nothing() -> None:
    """What an unfinished recording replays."""


@dataclass(slots=True)
class _Recording:
    memory: Tensor
    """What a step uploads, at the same address each time."""

    inputs: dict[str, Tensor]
    """Views of it."""

    attention: FixedAttention
    replay: Run = _nothing

    def load(self, grid: PackedArrays, carried: CarriedRows | None) -> None:
        """Give it another step."""
        grid.upload_to(self.memory)
        if carried is not None:
            carried.put_rows(self.inputs)
        self.attention.prepare(grid.int32("key_lens"), grid.int32("page_table"))


class GraphRunner:
    """Keeps a recording for each bucket, made when a step first needs it, or before.

    The output head is not part of it: the number of rows with logits is another at every step, and
    a head on all rows would cost more than the two launches that are saved.

    A recording is compared with the step that it was made of, once. If it differs, or cannot be
    made, a warning says why and all steps run eagerly from then on.

    Args:
        model: On its device.
        kv_pool: Its pages.
        backend: Of all layers.
        recorder: Makes the recordings.
        rule: Which of them there may be.
    """

    def __init__(
        self,
        model: DiffusionModel,
        kv_pool: KVPool,
        backend: RecordableBackend,
        recorder: Recorder,
        rule: BucketRule,
    ) -> None:
        self._model = model
        self._kv_pool = kv_pool
        self._backend = backend
        self._record = recorder
        self._recordings: dict[Bucket, _Recording] = {}
        self._hidden: Tensor | None = None
        self._failure: str | None = None
        self.rule = rule

        self.replays: Counter[Bucket] = Counter()
        """Steps replayed, by their bucket."""

        self.eager: Counter[str] = Counter()
        """Steps that were not, by the reason."""

    def run(self, batch: StepBatch) -> Replayed | None:
        """Replay a step; None if it has to run eagerly, and ``eager`` then says why."""
        found = self._failure or eager_reason(batch) or self._replay(batch)
        if isinstance(found, str):
            self.eager[found] += 1
            return None
        return found

    def _replay(self, batch: StepBatch) -> Replayed | str:
        sequences = step_sequences(batch.attention)
        bucket = self.rule.fit(sequences)
        if isinstance(bucket, str):
            return bucket
        grid = grid_arrays(bucket, self._kv_pool.pages.device)
        fill_grid(grid, bucket, sequences, batch.arrays, self._pad_id)
        known = self._recordings.get(bucket)
        recording = known or self._try(bucket, grid, batch.carried)
        if isinstance(recording, str):
            return recording
        if known is not None:
            known.load(grid, batch.carried)
        recording.replay()
        self.replays[bucket] += 1
        hidden = self._room()[: bucket.num_rows]
        return Replayed(hidden, recording.inputs["logits_rows"][: len(batch.logits_rows)])

    @torch.inference_mode()
    def record(self, longest: int) -> None:
        """Make the recordings of steps of all sizes whose sequences have so many rows."""
        for bucket in self.rule.usual(longest):
            grid = grid_arrays(bucket, self._kv_pool.pages.device)
            fill_padding(grid, bucket, self._pad_id)
            if self._failure is not None or isinstance(self._try(bucket, grid, None), str):
                return

    def _try(
        self, bucket: Bucket, grid: PackedArrays, carried: CarriedRows | None
    ) -> _Recording | str:
        """The recording of a bucket, or why there will be none any more."""
        try:
            recording = self._recordings[bucket] = self._make(bucket, grid, carried)
        except Exception as error:  # whatever a kernel's package may raise
            return self._give_up(f"{type(error).__name__}: {error}")
        return recording

    def _make(self, bucket: Bucket, grid: PackedArrays, carried: CarriedRows | None) -> _Recording:
        """The recording of a bucket, made of a step that is on the grid."""
        device = next(self._model.parameters()).device
        memory = torch.empty(grid.num_bytes, dtype=torch.uint8, device=device)
        grid.upload_to(memory)
        inputs = grid.views(memory)
        recording = _Recording(memory, inputs, self._backend.fixed(_layout(bucket, inputs)))
        recording.load(grid, carried)
        recording.replay = self._recorded(bucket, recording)
        return recording

    def _recorded(self, bucket: Bucket, recording: _Recording) -> Run:
        """The replay, held to what the step gives without it; a step may run any number of times.

        Raises:
            RuntimeError: If it cannot be made, or is wrong.
        """

        def run() -> None:
            self._forward(bucket, recording)

        hidden = self._room()[: bucket.num_rows]
        run()
        expected = hidden.clone()
        replay = self._record(run)
        hidden.zero_()
        replay()
        error = (hidden - expected).abs().amax()
        if not error <= _TOLERANCE * expected.abs().amax():  # also if it is no number
            raise RuntimeError(f"the replay of {bucket} is off by {float(error):.3g}")
        return replay

    def _forward(self, bucket: Bucket, recording: _Recording) -> None:
        inputs, pool = recording.inputs, self._kv_pool

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            pool.store(layer, key, value, inputs["slot_mapping"])
            return recording.attention.attend(query, key, value, *pool.layer(layer))

        hidden = self._model(inputs["input_ids"], inputs["positions"], attention)
        self._room()[: bucket.num_rows].copy_(hidden)

    def _room(self) -> Tensor:
        """Where all replays leave their rows; in none of the graphs' own memory."""
        if self._hidden is None:
            weight = next(self._model.parameters())
            size = (self.rule.max_rows, self._model.spec.hidden_size)
            dtype = self._kv_pool.layer(0)[0].dtype
            self._hidden = torch.zeros(size, dtype=dtype, device=weight.device)
        return self._hidden

    def _give_up(self, problem: str) -> str:
        self._failure = f"recording failed: {problem}"
        self._recordings.clear()
        warnings.warn(
            f"CUDA graphs are given up, steps run eagerly: {problem}; cuda_graphs='off' spares the "
            "attempt",
            stacklevel=2,
        )
        return self._failure

    @property
    def _pad_id(self) -> int:
        """Any token that embeds to numbers."""
        return self._model.spec.eos_token_ids[0] if self._model.spec.eos_token_ids else 0


def _layout(bucket: Bucket, inputs: dict[str, Tensor]) -> FixedLayout:
    return FixedLayout(
        num_sequences=bucket.num_sequences,
        rows_each=bucket.rows_each,
        page_table=inputs["page_table"],
        key_lens=inputs["key_lens"],
        cu_query=inputs["cu_query"],
        cu_keys=inputs["cu_keys"],
    )
