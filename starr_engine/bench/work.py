"""What a step must compute and move at the least: FLOPs and bytes, counted from its plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from starr_engine.cache.rows import num_rows
from starr_engine.engine.step_batch import StepBatch
from starr_engine.layers.moe import MoEFeedForward
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.quantization import held_weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of one step, or of many."""

    flops: float = 0.0
    """Of matrix products and attention, a multiplication and an addition each counting as one."""

    num_bytes: float = 0.0
    """Moved between memory and the processor if nothing is moved twice."""

    def __add__(self, other: Work) -> Work:
        return Work(flops=self.flops + other.flops, num_bytes=self.num_bytes + other.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The experts of one layer."""

    num_bytes: int
    idle_share: float
    """Of the experts, those that a row does not pass through."""

    def bytes_read(self, num_rows: float) -> float:
        """Of the experts that any row passes through, if rows choose independently."""
        return float(self.num_bytes * (1.0 - self.idle_share**num_rows))


class WorkCounter:
    """Counts a step's work from the model's shapes and the step's plans.

    Counted are: every weight once (of experts those that the step's rows are expected to choose),
    keys and values written and read, embedding rows read, logits written and read again for their
    statistics. Not counted are activations between the parts of a layer, norms and rotations;
    layers that see a window are counted as if they saw all.

    Args:
        model: Loaded.
    """

    def __init__(self, model: DiffusionModel) -> None:
        spec = model.spec
        self._spec = spec
        # Where the mask is no row of the embedding, there is one less.
        shapes = {(rows, spec.hidden_size) for rows in (spec.vocab_size, spec.vocab_size - 1)}
        tables = [weight for weight in model.parameters() if tuple(weight.shape) in shapes]
        mixtures = [part for part in model.modules() if isinstance(part, MoEFeedForward)]
        experts = [list(mixture.experts.parameters()) for mixture in mixtures]
        self._mixtures = tuple(
            Mixture(
                num_bytes=_num_bytes(weights),
                idle_share=mixture.num_idle_parameters / _num_values(weights),
            )
            for mixture, weights in zip(mixtures, experts, strict=True)
        )
        self._itemsize = tables[0].element_size()
        self._head_bytes = tables[-1].nbytes
        self._head_values = tables[-1].numel()
        # A tied head is the embedding; of an embedding proper only the step's rows are read.
        other = _num_bytes(tables) + sum(mixture.num_bytes for mixture in self._mixtures)
        self._layer_bytes = held_weight_bytes(model) - other
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        self._row_parameters = (
            _num_values(matrices) - _num_values(tables) - model.num_idle_parameters
        )

    def count(self, batch: StepBatch) -> Work:
        """Work of a step, probes included."""
        work = self._forward(batch)
        for probe in batch.probes:
            work += self._forward(probe)
        return work

    def _forward(self, batch: StepBatch) -> Work:
        spec = self._spec
        entries = batch.entries
        if not entries:
            return Work()
        rows = sum(entry.computed_rows(spec.num_layers) for entry in entries)
        written = sum(num_rows(entry.plan.write) for entry in entries)
        scored = len(batch.logits_rows)
        query_values = sum(spec.num_heads * shape.head_dim for shape in spec.shapes)
        kv_bytes = spec.kv_values_per_row * self._itemsize
        return Work(
            flops=2.0 * self._row_parameters * rows
            + 4.0 * query_values * num_pairs(batch)
            + 2.0 * self._head_values * scored,
            num_bytes=self._layer_bytes
            + sum(mixture.bytes_read(rows) for mixture in self._mixtures)
            + kv_bytes * (written + sum(batch.attention.read_lens))
            + self._itemsize * spec.hidden_size * rows
            + (self._head_bytes if scored else 0)
            + 2 * self._itemsize * spec.vocab_size * scored,
        )


def num_pairs(batch: StepBatch) -> int:
    """Pairs of a row and one that it attends to."""
    at = batch.attention
    total = 0
    for query, read, shadow, is_limited, runs in zip(
        at.query_lens, at.read_lens, at.shadow_lens, at.limited, at.visible_runs, strict=True
    ):
        plain = query - shadow
        total += sum(rows * seen for rows, seen in runs) if is_limited else plain * read
        total += shadow * (read - 1 + shadow)
    return total


def _num_values(weights: Sequence[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def _num_bytes(weights: Sequence[Tensor]) -> int:
    return sum(weight.nbytes for weight in weights)
