"""DiffusionGemma's sampler: a bound on joint entropy, over the whole block anew at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.guarantee import first_argmax
from starr_engine.decoding.policies.checks import check_count, check_not_negative
from starr_engine.decoding.policies.ranking import by_offset
from starr_engine.errors import RequestError

_ROWS_AT_ONCE: Final = 256
"""Positions whose probabilities over the vocabulary are in memory at once, in float64."""

_UNKNOWN: Final = -1
"""No token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyBoundPolicy(PolicyDefaults):
    """Take as many drawn tokens as a bound on their joint entropy allows; **revocable**.

    At step s = 0 ... N - 1 of a block, N being ``max_steps``, the logits are divided by

        t = t_min + (t_max - t_min) * (N - s) / N

    and every position draws a token from them. With H_(1) <= H_(2) ... the entropies (nats) at t
    of all positions, whether they hold a token or not, the first n are accepted, for the largest n
    with

        H_(1) + ... + H_(n - 1) <= entropy_bound

    Accepted positions take what they have drawn, and all others are undecided again: masks, or new
    noise in a model of uniform noise. Nothing is kept from one step to the next but what stands
    there.

    The block is final at the first step at which the arg-max of every position is what it was in
    the ``stability_steps`` steps before, and the mean entropy is below ``confidence_threshold``; at
    the last step in any case. Its tokens are then the arg-max of that step, everywhere.

    The request's own temperature and truncation have no part in it. A block that has no mask left
    and is not final stays open. A self-conditioned model is told its logits divided by t.

    Differs from the authors' code: tokens are drawn by the request's seed and their place, where
    theirs come from torch's global generator; entropies are summed in float64; of equal ones the
    leftmost goes first; what the request's options forbid is not drawn; fixed tokens count as
    sure. Theirs draws a whole canvas even where ``max_tokens`` ends inside it.

    State: 8 * ``stability_steps`` bytes a position.

    Source:
        ``EntropyBoundSampler``, ``LinearTemperatureScheduleLogitsProcessor`` and
        ``StableAndConfidentStoppingCriteria`` in transformers 5.23, with the defaults here; the
        bound is EB-Sampler's, arXiv 2505.24857, see ``eb_sampler``.

    Raises:
        RequestError: If an argument is out of range.
    """

    scores_unmasked: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    entropy_bound: float = 0.1
    """Nats; 0 accepts one position a step, but for those of entropy 0."""

    max_steps: int = 48
    """N: after so many steps every block is final."""

    t_max: float = 0.8
    """Temperature of a block's first step."""

    t_min: float = 0.4
    """What the temperature falls towards."""

    stability_steps: int = 1
    """Steps before whose arg-max a final block must repeat; 0 asks for none."""

    confidence_threshold: float = 0.005
    """Nats that the mean entropy of a final block must be below; 0 takes all steps."""

    def __post_init__(self) -> None:
        check_not_negative(self, "entropy_bound", "t_max", "t_min", "confidence_threshold")
        check_count(self, "max_steps")
        check_count(self, "stability_steps", least=0, most=64)
        if not 0 < self.t_min <= self.t_max:
            raise RequestError(
                f"t_min must be above 0 and at most t_max: t_min={self.t_min}, t_max={self.t_max}"
            )

    @property
    def step_limit(self) -> int:
        """N."""
        return self.max_steps

    def temperature(self, step: int) -> float:
        """t, at step N - 1 from there on."""
        left = max(self.max_steps - step, 1) / self.max_steps
        return self.t_min + (self.t_max - self.t_min) * left

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """``best``: int64 [rows, stability_steps, block_length], the arg-max of the last steps."""
        shape = (rows, self.stability_steps, block_length)
        return {"best": torch.full(shape, _UNKNOWN, dtype=torch.int64, device=device)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        assert view.proposals is not None
        left = (self.max_steps - view.step).clamp_min(1).double() / self.max_steps
        temperature = self.t_min + (self.t_max - self.t_min) * left
        drawn, best, entropy = _read(view, temperature.float())

        ordered, order = entropy.sort(dim=1, stable=True)
        accepted = by_offset(order, ordered.cumsum(1) - ordered <= self.entropy_bound)

        before = state["best"]
        is_stable = (before == best[:, None]).flatten(1).all(1)
        is_sure = entropy.mean(1) < self.confidence_threshold
        is_final = (is_stable & is_sure) | (view.step + 1 >= self.max_steps)
        ends = is_final[:, None].expand_as(accepted)
        put = torch.where(ends, best, drawn)
        return Decision(
            unmask=view.masked & (accepted | ends),
            revoke=~view.masked & ~accepted & ~ends,
            edit=~view.masked & (accepted | ends) & (put != view.candidates),
            tokens=put,
            hold=~is_final,
            signals={"entropy": entropy.float(), "temperature": temperature.float()[:, None]},
        ), {"best": torch.cat([before, best[:, None]], dim=1)[:, 1:]}


def _read(view: BlockView, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What every position draws, its arg-max, and its entropy at a temperature.

    Args:
        view: n rows of L positions.
        temperature: [n] float32.

    Returns:
        int64, int64 and float64, all [n, L].
    """
    assert view.logits is not None
    assert view.proposals is not None
    # Two draws of 24 bits each, so that the least probable of many tokens keep their share.
    chance = uniform(view).double() + uniform(view, 1).double() / 2**24
    rows = view.logits.flatten(0, 1)
    scale = temperature[:, None].expand_as(view.masked).flatten()
    pieces = [
        _read_rows(*piece)
        for piece in zip(
            *(torch.split(each, _ROWS_AT_ONCE) for each in (rows, scale, chance.flatten())),
            strict=True,
        )
    ]
    drawn, best, entropy = (
        torch.cat(each).view_as(view.masked) for each in zip(*pieces, strict=True)
    )
    # Positions that are not scored have no logits; where all mass is on one token, neither counts.
    is_settled = (view.top1 == 1) & (view.entropy == 0)
    return (
        torch.where(is_settled, view.proposals, drawn),
        torch.where(is_settled, view.proposals, best),
        entropy.masked_fill(is_settled, 0.0),
    )


def _read_rows(logits: Tensor, scale: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[m, V], [m] and [m] -> [m] each."""
    odds = (logits / scale[:, None]).double().softmax(-1)
    mass = odds.cumsum(-1)
    # The first token whose mass goes beyond the draw; a token without any is never that.
    drawn = torch.searchsorted(mass, chance[:, None] * mass[:, -1:], right=True).squeeze(-1)
    return drawn, first_argmax(logits), torch.special.entr(odds).sum(-1)
