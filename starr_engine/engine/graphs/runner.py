"""Replays the forward of a step from a recording of its bucket."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Final

import torch
from torch import Tensor

from starr_engine.attention.fixed import FixedLayout, RecordableBackend
from starr_engine.cache.pool import KVPool
from starr_engine.engine.carried_rows import CarriedRows
from starr_engine.engine.graphs.buckets import BucketRule, eager_reason, step_sequences
from starr_engine.engine.graphs.padding import fill_grid, fill_padding, grid_arrays
from starr_engine.engine.graphs.recorder import Recorder, Run
from starr_engine.engine.graphs.recording import Bucket, LoadedStep, Recording
from starr_engine.engine.packed_arrays import PackedArrays
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.base import DiffusionModel

_TOLERANCE: Final = 0.05
"""Of the largest value: a replay that went wrong is off by more, and rounding by less."""


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
        self._recordings: dict[Bucket, Recording] = {}
        self._hidden: Tensor | None = None
        self._failure: str | None = None
        self.rule = rule

        self.replays: Counter[Bucket] = Counter()
        """Steps replayed, by their bucket."""

        self.eager: Counter[str] = Counter()
        """Steps that were not, by the reason."""

    def load(self, batch: StepBatch) -> LoadedStep | None:
        """Upload a step into its recording; None if it has to run eagerly, as ``eager`` counts."""
        found = self._failure or eager_reason(batch) or self._load(batch)
        if isinstance(found, str):
            self.eager[found] += 1
            return None
        return found

    def run(self, step: LoadedStep) -> Tensor:
        """Replay the step that was loaded last.

        Returns:
            [N * Q, hidden size] after the final norm; to be read before the next one is loaded, on
            the same stream.
        """
        step.recording.replay()
        self.replays[step.bucket] += 1
        return self._room()[: step.bucket.num_rows]

    def _load(self, batch: StepBatch) -> LoadedStep | str:
        sequences = step_sequences(batch.attention)
        bucket = self.rule.fit(sequences)
        if isinstance(bucket, str):
            return bucket
        grid = grid_arrays(bucket, self._kv_pool.pages.device, batch.arrays.packed.tail.size)
        fill_grid(grid, bucket, sequences, batch.arrays, self._pad_id)
        uploaded = grid.upload()
        known = self._recordings.get(bucket)
        recording = known or self._try(bucket, grid, uploaded, batch.carried)
        if isinstance(recording, str):
            return recording
        if known is not None:
            known.load(grid, uploaded, batch.carried)
        return LoadedStep(
            bucket=bucket,
            recording=recording,
            facts=grid.tail_of(uploaded),
            num_scored=len(batch.logits_rows),
        )

    @torch.inference_mode()
    def record(self, longest: int) -> None:
        """Make the recordings of steps of all sizes whose sequences have so many rows."""
        for bucket in self.rule.usual(longest):
            grid = grid_arrays(bucket, self._kv_pool.pages.device)
            fill_padding(grid, bucket, self._pad_id)
            if self._failure is not None:
                return
            if isinstance(self._try(bucket, grid, grid.upload(), None), str):
                return

    def _try(
        self, bucket: Bucket, grid: PackedArrays, uploaded: Tensor, carried: CarriedRows | None
    ) -> Recording | str:
        """The recording of a bucket, or why there will be none any more."""
        try:
            recording = self._make(bucket, grid, uploaded, carried)
        except Exception as error:  # whatever a kernel's package may raise
            return self._give_up(f"{type(error).__name__}: {error}")
        self._recordings[bucket] = recording
        return recording

    def _make(
        self, bucket: Bucket, grid: PackedArrays, uploaded: Tensor, carried: CarriedRows | None
    ) -> Recording:
        """The recording of a bucket, made of a step that is on the grid."""
        memory = uploaded[: grid.num_bytes].clone()
        inputs = grid.views(memory)
        recording = Recording(memory, inputs, self._backend.fixed(_layout(bucket, inputs)))
        recording.load(grid, uploaded, carried)
        recording.replay = self._recorded(bucket, recording)
        return recording

    def _recorded(self, bucket: Bucket, recording: Recording) -> Run:
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

    def _forward(self, bucket: Bucket, recording: Recording) -> None:
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
