"""Logits of a batch to one decision per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.carrying import Carried, CarriedRow
from starr_engine.decoding.decoder import GroupedRows, QueuedRows
from starr_engine.decoding.facts import KnownFacts
from starr_engine.decoding.logits import OutputCanvas
from starr_engine.decoding.logprobs import token_logprobs
from starr_engine.decoding.noise import Noise, drawn_columns, drawn_rows, row_keys
from starr_engine.decoding.rows import DecodingRow, RowDecision, RowFailure
from starr_engine.decoding.scores import fused_statistics, plain_statistics, score_rows
from starr_engine.decoding.transfer import upload
from starr_engine.engine.carried_rows import KNOWN, put
from starr_engine.engine.options import EngineOptions
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.step_batch import CheckedStep

_NO_OPTIONS: Final = EngineOptions()
_NOTHING: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Member:
    """A scheduled request and its rows of the logits."""

    running: RunningRequest
    carried: CarriedRow | None
    """What its last step leaves on the device, if the host does not know it yet."""

    block_start: int
    """Of the block that is decided: the request may be in another when this is known."""

    rows: slice
    positions: NDArray[np.int64]
    """On the canvas, ascending."""

    shadow_rows: slice
    """Of the logits, behind the rows of all requests."""

    shadow_positions: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRows:
    """All that the host can do for the decisions of a step before there are logits."""

    members: list[_Member]
    drawing: list[Noise]
    """Of the requests that sample."""

    rows: GroupedRows

    carried: Carried | None
    """What the step in front of it leaves on the device, if it is not known yet."""

    @property
    def facts(self) -> KnownFacts:
        """To be uploaded."""
        return self.rows.facts


@dataclass(frozen=True, slots=True)
class QueuedDecisions:
    """Decisions that the device is making."""

    members: list[_Member]
    logits: Tensor
    rows: QueuedRows


class Decoder:
    """Applies what requests ask of their logits, scores them, and lets every policy decide.

    Args:
        mask_token_id: From the checkpoint.
        options: Of the engine.
    """

    def __init__(self, mask_token_id: int, options: EngineOptions = _NO_OPTIONS) -> None:
        self._mask_token_id = mask_token_id
        self._options = options

    def prepare(self, step: CheckedStep) -> PreparedRows:
        """Who is decided with whom, and what deciding has to know: all before the forward."""
        members = _members(step)
        noise = _noise(members)
        rows = [self._row(member, noise.get(n)) for n, member in enumerate(members)]
        drawing = list(noise.values())
        return PreparedRows(
            members=members,
            drawing=drawing,
            rows=GroupedRows(rows, *drawn_columns(drawing), *_present(step, members)),
            carried=step.carried,
        )

    @torch.inference_mode()
    def decide(self, prepared: PreparedRows, facts: Tensor, logits: Tensor) -> QueuedDecisions:
        """What changes in every scheduled request's block, or why it fails, in schedule order.

        It is queued on the device; :meth:`wait` gives it.

        Args:
            prepared: The rows of the step.
            facts: int64: ``prepared.facts`` on the device.
            logits: [M, V].
        """
        members, drawing, grouped = prepared.members, prepared.drawing, prepared.rows
        logits = self._obey(members, logits)
        statistics = fused_statistics if self._options.fused_statistics else plain_statistics
        known, others = grouped.facts.read(facts)
        drawn, (present, *sources) = drawn_rows(*others[:3]), others[3:]
        if prepared.carried is not None:
            present = put(present, prepared.carried.token_ids, *sources)
        scores = score_rows(
            logits, present, self._mask_token_id, drawing, drawn, statistics=statistics
        )
        queued = QueuedRows(grouped, known, scores, logits, stacked=self._options.stacked_states)
        return QueuedDecisions(members, logits, queued)

    @torch.inference_mode()
    def carry(self, queued: QueuedDecisions) -> list[CarriedRow] | None:
        """What each request's decision leaves on the device; None if the host must see it first."""
        return queued.rows.carry()

    @torch.inference_mode()
    def wait(self, queued: QueuedDecisions) -> list[RowDecision | RowFailure]:
        """The decisions once the device has made them, in schedule order."""
        return [
            self._with_logprobs(member, decision, queued.logits)
            for member, decision in zip(queued.members, queued.rows.wait(), strict=True)
        ]

    def _obey(self, members: Sequence[_Member], logits: Tensor) -> Tensor:
        """``logits`` itself if no request has rules that change its rows, else a float32 copy."""
        ruled = [member for member in members if member.running.rules.change_logits]
        if not ruled:
            return logits
        # Every float16 and bfloat16 is a float32: the other rows keep their values.
        changed = logits.to(torch.float32, copy=True)
        for member in ruled:
            canvas = member.running.request.canvas
            for rows, positions in (
                (member.rows, member.positions),
                (member.shadow_rows, member.shadow_positions),
            ):
                seen = OutputCanvas(
                    prompt_ids=canvas.token_ids[: canvas.prompt_len],
                    output_ids=canvas.token_ids[canvas.prompt_len :],
                    positions=positions - canvas.prompt_len,
                    mask_token_id=self._mask_token_id,
                )
                changed[rows] = member.running.rules.apply(logits[rows], seen)
        return changed

    def _row(self, member: _Member, draw: Noise | None) -> DecodingRow:
        running, request, carried = member.running, member.running.request, member.carried
        canvas = request.canvas
        return DecodingRow(
            policy=running.remasking,
            state=running.state if carried is None else carried.state,
            carried=carried,
            block_ids=canvas.active_block,
            is_fixed=canvas.is_fixed[canvas.block_start : canvas.block_stop],
            mask_token_id=self._mask_token_id,
            step=request.steps_in_block + (carried is not None),
            num_left=canvas.block_start,
            at_edge=canvas.at_edge,
            num_revoked=request.num_revoked_in_block,
            num_unmasked=request.num_unmasked,
            num_masks=canvas.num_masks,
            seed=request.params.seed,
            score_offsets=member.positions - canvas.block_start,
            shadow_offsets=member.shadow_positions - canvas.block_start,
            noise=draw,
            exit_rule=running.exit_rule,
            num_held=request.num_held_in_block,
            trace=running.recorder is not None,
            late_ids=running.rules.late_ids,
            has_rules=running.rules.change_logits,
            guard=running.rules.guard(
                canvas.token_ids[canvas.prompt_len :],
                canvas.block_start - canvas.prompt_len,
                self._mask_token_id,
            ),
        )

    def _with_logprobs(
        self, member: _Member, decision: RowDecision | RowFailure, logits: Tensor
    ) -> RowDecision | RowFailure:
        request = member.running.request
        if isinstance(decision, RowFailure) or request.params.logprobs is None:
            return decision
        offsets = np.concatenate([decision.unmask_offsets, decision.edit_offsets])
        put = np.concatenate([decision.unmask_ids, decision.edit_ids])
        positions = offsets + member.block_start
        rows = member.rows.start + np.searchsorted(member.positions, positions)
        return replace(
            decision,
            logprobs=token_logprobs(
                logits[upload(rows, logits.device)],
                upload(put.astype(np.int64), logits.device),
                num_top=request.params.logprobs,
                step=request.num_forwards + 1,
                mask_token_id=self._mask_token_id,
            ),
        )


def _members(step: CheckedStep) -> list[_Member]:
    members: list[_Member] = []
    first, first_shadow = 0, sum(len(positions) for positions in step.score_positions)
    for entry, positions, shadows in zip(
        step.entries, step.score_positions, step.shadow_positions, strict=True
    ):
        rows = slice(first, first + len(positions))
        shadow_rows = slice(first_shadow, first_shadow + len(shadows))
        members.append(
            _Member(
                running=entry.running,
                carried=entry.carried,
                block_start=entry.running.request.canvas.block_start,
                rows=rows,
                positions=positions.astype(np.int64),
                shadow_rows=shadow_rows,
                shadow_positions=shadows.astype(np.int64),
            )
        )
        first, first_shadow = rows.stop, shadow_rows.stop
    return members


def _present(step: CheckedStep, members: Sequence[_Member]) -> list[NDArray[np.int64]]:
    """The token that stands at each row with logits, or the mask: [M].

    At shadow rows it is the token that they check. With it, if anything is carried, where that is
    found: [M], ``KNOWN`` for what the host knows.
    """
    scored = [(member, member.positions) for member in members]
    checked = [(member, member.shadow_positions) for member in members]
    tokens = [member.running.request.canvas.token_ids[at] for member, at in scored + checked]
    present = np.concatenate([*tokens, _NOTHING]).astype(np.int64)
    if step.carried is None:
        return [present]
    sources = [
        np.full(len(at), KNOWN)
        if member.carried is None
        else at - member.running.request.canvas.block_start + member.carried.first
        for member, at in scored + checked
    ]
    return [present, np.concatenate([*sources, _NOTHING])]


def _noise(members: Sequence[_Member]) -> dict[int, Noise]:
    """By the place of each member that samples."""
    drawing = {
        n: member for n, member in enumerate(members) if member.running.request.params.temperature
    }
    if not drawing:
        return {}
    counts = [len(member.positions) for member in drawing.values()]
    requests = [member.running.request for member in drawing.values()]
    steps = [
        member.running.request.num_forwards + (member.carried is not None)
        for member in drawing.values()
    ]
    keys = row_keys(
        np.repeat([request.params.seed for request in requests], counts),
        np.repeat(steps, counts),
        np.concatenate([member.positions - member.block_start for member in drawing.values()]),
    )
    pieces = np.split(keys, np.cumsum(counts)[:-1])
    return {
        n: Noise(
            rows=member.rows,
            keys=own,
            temperature=request.params.temperature,
            top_p=request.params.top_p,
            top_k=request.params.top_k,
            min_p=request.params.min_p,
        )
        for (n, member), request, own in zip(drawing.items(), requests, pieces, strict=True)
    }
