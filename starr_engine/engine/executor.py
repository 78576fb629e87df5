"""The forward of a step: owns the model and the pages' tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from starr_engine.attention.base import AttentionBackend, StepAttention
from starr_engine.cache.feature_pool import FeaturePool
from starr_engine.cache.pool import KVPool
from starr_engine.decoding.transfer import upload
from starr_engine.engine.drafting import remember
from starr_engine.engine.feature_forward import feature_forward
from starr_engine.engine.graphs.runner import GraphRunner
from starr_engine.engine.probing import row_errors, split_errors
from starr_engine.engine.rank_group import RankGroup, in_step
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.base import DiffusionModel

_ROWS_AT_ONCE: Final = 64
"""Rows whose logits probes compare at once, in float64."""


class Executor:
    """Runs batches; keys and values are written and read through pages on the way.

    Args:
        model: On its device, in its dtype.
        kv_pool: On the same device.
        backends: Of every layer; each supports its layer's shape.
        others: The other ranks if the model is split and this is rank 0; they get every batch and
            run it on an executor of their own.
        graphs: Replays the steps that it can; None runs every step eagerly.
        head_on_scored_rows: See ``EngineOptions``.
    """

    def __init__(
        self,
        model: DiffusionModel,
        kv_pool: KVPool,
        backends: Sequence[AttentionBackend],
        others: RankGroup | None = None,
        graphs: GraphRunner | None = None,
        *,
        head_on_scored_rows: bool = True,
    ) -> None:
        self.graphs = graphs
        self._head_on_scored_rows = head_on_scored_rows
        self._model = model
        self._kv_pool = kv_pool
        self._backends = backends
        self._windows = [shape.window for shape in model.spec.shapes]
        self._others = others
        self._feature_pool: FeaturePool | None = None

        self.drift_layer = model.spec.num_layers - 1
        """Layer whose values say how far rows drift."""

    @property
    def model(self) -> DiffusionModel:
        """What it runs."""
        return self._model

    @property
    def backends(self) -> Sequence[AttentionBackend]:
        """Of every layer."""
        return self._backends

    @property
    def feature_bytes(self) -> int:
        """Memory of the pages of features; 0 before a request needs them."""
        return 0 if self._feature_pool is None else self._feature_pool.num_bytes

    def make_feature_pages(self) -> None:
        """Make room for what layers add to rows, once: few engines ever need it.

        Raises:
            CapacityError: If it does not fit; says how much it is.
        """
        if self._feature_pool is None:
            self._feature_pool = FeaturePool(self._kv_pool, self._model.spec.hidden_size)

    @torch.inference_mode()
    def upload(self, batch: StepBatch) -> StepBatch:
        """Queue what comes before the forward: copies of pages, and one upload.

        A step that can be replayed is put into its recording, which is made if there is none.
        """
        for copy in batch.copies:
            self._kv_pool.copy_pages(copy.source, copy.target)
        replay = None if self.graphs is None else self.graphs.load(batch)
        if replay is not None:
            return replace(batch, facts=replay.facts, replay=replay)
        batch = batch.uploaded()
        if batch.carried is not None:
            batch.carried.put_rows(batch.tensors)
        return batch

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Tensor:
        """Logits [M, vocab_size] at ``batch.logits_rows``; the batch was uploaded.

        What probes and measured rows say is added to their requests.

        Raises:
            EngineDeadError: If another rank is no more, or the forward failed and left the ranks
                out of step.
        """
        if self._others is None:
            return self._forward(batch)
        with in_step(self._others, self._kv_pool.pages.device):
            return self._forward(batch)

    def _forward(self, batch: StepBatch) -> Tensor:
        logits, similarity = self._run(batch)
        if self._model.spec.self_conditioning:
            running = [entry.running for entry in batch.entries]
            remember(self._model, running, batch.score_positions, logits)
        if batch.probes or similarity is not None:
            self._observe(batch, logits, similarity)
        return logits

    def _run(self, batch: StepBatch) -> tuple[Tensor, Tensor | None]:
        """Logits, and the cosines of the measured rows if there are any."""
        if self._others is not None:
            self._others.tell(batch.arrays.message(batch.copies))
        pool, measured = self._kv_pool, batch.measured
        similarity: Tensor | None = None

        def observe(layer: int, value: Tensor) -> None:
            nonlocal similarity
            if measured is not None and layer == self.drift_layer:
                similarity = measured.similarity(value, pool.layer(layer)[1])

        rows = batch.logits_rows
        if batch.replay is not None:
            assert self.graphs is not None, "who loaded it"
            hidden, rows = self.graphs.run(batch.replay), batch.replay.logits_rows
        elif batch.features is None:
            hidden = self._plain_forward(batch, observe)
        else:
            assert self._feature_pool is not None, "made when the request was added"
            hidden = feature_forward(
                self._model, pool, self._feature_pool, self._backends[0], batch, observe
            )
        if self._head_on_scored_rows:
            logits = self._model.compute_logits(hidden[rows])
        else:
            logits = self._model.compute_logits(hidden)[rows]
        if (ranks := self._model.ranks) is not None:
            logits = ranks.join_columns(logits, self._model.spec.vocab_size)
        return logits, similarity

    def _plain_forward(self, batch: StepBatch, observe: Callable[[int, Tensor], None]) -> Tensor:
        pool, metadata = self._kv_pool, batch.attention
        keeps_rows = not all(metadata.fresh)
        steps = self._plan(batch)

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            observe(layer, value)
            if keeps_rows:
                pool.store(layer, key, value, metadata.slot_mapping)
            return steps[layer].attend(query, key, value, *pool.layer(layer))

        hidden: Tensor = self._model(batch.input_ids, batch.positions, attention, batch.canvas)
        return hidden

    def _plan(self, batch: StepBatch) -> list[StepAttention]:
        """Attention of every layer; layers that see the same share one."""
        made: dict[tuple[int, int | None], StepAttention] = {}
        steps: list[StepAttention] = []
        for backend, own in zip(self._backends, self._windows, strict=True):
            window = own if own in batch.windows else None
            kind = (id(backend), window)
            if kind not in made:
                made[kind] = (
                    backend.plan(batch.attention)
                    if window is None
                    else batch.windows[window].plan(backend)
                )
            steps.append(made[kind])
        return steps

    def _observe(self, batch: StepBatch, logits: Tensor, similarity: Tensor | None) -> None:
        """Run the probes, and add all findings to the requests, with one copy to the host."""
        found = [] if similarity is None else [similarity.double()]
        if batch.probes:
            probed = upload(np.array(batch.probed_rows, np.int64), logits.device)
            full = torch.cat([self._run(self.upload(probe))[0] for probe in batch.probes])
            of_probed, of_full = (torch.split(each, _ROWS_AT_ONCE) for each in (probed, full))
            pieces = zip(of_probed, of_full, strict=True)
            mask = self._model.spec.mask_token_id
            found += [row_errors(logits[rows], piece, mask).flatten() for rows, piece in pieces]
        numbers = torch.cat(found).cpu().numpy()
        num_measured = 0
        if batch.measured is not None:
            num_measured = len(batch.measured.rows)
            batch.measured.note(numbers[:num_measured])
        if batch.probes:
            entries = [entry for probe in batch.probes for entry in probe.entries]
            counts = [len(masks) for probe in batch.probes for masks in probe.score_positions]
            errors_of = split_errors(numbers[num_measured:].reshape(-1, 3), counts)
            for entry, each in zip(entries, errors_of, strict=True):
                assert entry.running.probes is not None
                entry.running.probes.add(each)
