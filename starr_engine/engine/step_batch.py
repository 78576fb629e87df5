"""What a step is to the forward and to the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from starr_engine.attention.base import AttentionMetadata
from starr_engine.attention.windows import WindowView
from starr_engine.decoding.carrying import Carried
from starr_engine.engine.canvas_cache import PageCopy
from starr_engine.engine.carried_rows import CarriedRows
from starr_engine.engine.drifting import MeasuredRows
from starr_engine.engine.feature_rows import FeatureRows
from starr_engine.engine.graphs.recording import LoadedStep
from starr_engine.engine.scheduler import RefusedRequest, ScheduledRequest
from starr_engine.engine.step_arrays import StepArrays
from starr_engine.models.base import CanvasRows
from starr_engine.request import Positions


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedStep:
    """Whose plans break no rule; R requests."""

    entries: tuple[ScheduledRequest, ...]
    """Who takes part."""

    score_positions: tuple[Positions, ...]
    """See ``StepBatch``, like the others."""

    shadow_positions: tuple[Positions, ...]
    refused: tuple[RefusedRequest, ...]
    started_s: float

    @property
    def carried(self) -> Carried | None:
        """What the step in front of this one leaves on the device, if it is not known yet."""
        return next((entry.carried.carried for entry in self.entries if entry.carried), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """Everything the forward and the decoder of one step need; T rows, M of them scored."""

    entries: tuple[ScheduledRequest, ...]
    """Who takes part, in the order of the rows."""

    input_ids: Tensor
    """[T] int64, masks included, or in their places what models of uniform noise see."""

    positions: Tensor
    """[T] int64, counted from 0 in each request."""

    logits_rows: Tensor
    """[M] int64 flat rows whose logits are those of the scored positions, request by request; then
    of the shadow rows, likewise."""

    score_positions: tuple[Positions, ...]
    """Per request: canvas positions scored, ascending."""

    shadow_positions: tuple[Positions, ...]
    """Per request: canvas positions whose shadow rows are scored, ascending."""

    attention: AttentionMetadata
    """Of layers without a window."""

    arrays: StepArrays
    """The same on the host, for other ranks."""

    started_s: float
    """When its laying out began, of ``time.perf_counter``."""

    facts: Tensor
    """int64: what is known of the blocks, for the decoder; see ``KnownFacts``."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """All of ``arrays``."""

    is_on_host: bool = False
    """Whether all these tensors are still on the host, because a recording may take them in; see
    :meth:`uploaded`."""

    replay: LoadedStep | None = None
    """The recording that holds the step; its tensors here are then still on the host, but for
    ``facts``."""

    copies: tuple[PageCopy, ...] = ()
    """Pages to copy, in order, before any row is written."""

    refused: tuple[RefusedRequest, ...] = ()
    """Who takes no part, because no plan could be made or the plan breaks a rule."""

    features: FeatureRows | None = None
    """Rows that keep what layers add to them; None if there are none."""

    measured: MeasuredRows | None = None
    """Whose drift is measured; None for nobody's."""

    carried: CarriedRows | None = None
    """What the step takes from the one in front of it; None if the host knows that one."""

    canvas: CanvasRows | None = None
    """Rows of active blocks, for models that treat them differently."""

    windows: Mapping[int, WindowView] = field(default_factory=dict)
    """By the window that some layers have; without those that hide no row at this step."""

    probes: tuple[StepBatch, ...] = ()
    """The same step for the requests that are probed, in order, with nothing reused and no shadow
    rows; several where one would have more rows than a step may."""

    @property
    def probed_rows(self) -> list[int]:
        """Of the logits' rows, those that the probes score too, in their order."""
        probed = {id(entry.running) for probe in self.probes for entry in probe.entries}
        rows: list[int] = []
        first = 0
        for entry, positions in zip(self.entries, self.score_positions, strict=True):
            if id(entry.running) in probed:
                rows.extend(range(first, first + len(positions)))
            first += len(positions)
        return rows

    def uploaded(self) -> StepBatch:
        """The same on the device, by one copy."""
        if not self.is_on_host:
            return self
        packed = self.arrays.packed
        memory = packed.upload()
        tensors = packed.views(memory)
        return replace(
            self,
            facts=packed.tail_of(memory),
            input_ids=tensors["input_ids"],
            positions=tensors["positions"],
            logits_rows=tensors["logits_rows"],
            attention=replace(
                self.attention,
                cu_query=tensors["cu_query"],
                cu_read=tensors["cu_read"],
                read_slots=tensors["read_slots"],
                slot_mapping=tensors["slot_mapping"],
                page_table=tensors["page_table"],
                visible=tensors["visible"],
            ),
            tensors=tensors,
            is_on_host=False,
        )

    @classmethod
    def of_other_rank(cls, arrays: StepArrays, copies: tuple[PageCopy, ...]) -> StepBatch:
        """The batch of a rank that owns no requests: enough for the forward."""
        memory = arrays.packed.upload()
        tensors = arrays.packed.views(memory)
        return cls(
            facts=arrays.packed.tail_of(memory),
            entries=(),
            input_ids=tensors["input_ids"],
            positions=tensors["positions"],
            logits_rows=tensors["logits_rows"],
            score_positions=(),
            shadow_positions=(),
            attention=arrays.attention(arrays.rows(), tensors),
            arrays=arrays,
            started_s=0.0,
            copies=copies,
        )
