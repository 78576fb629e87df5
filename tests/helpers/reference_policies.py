"""The remasking rules a second time, one position after another in plain Python.

Each rule is a class whose ``decide(look)`` gives the offsets to unmask and to revoke in one block;
it is made anew for every block. Only the defaults of the arguments come from the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from starr_engine.decoding.policies.starr import StarrPolicy

Positions = set[int]


@dataclass(frozen=True)
class Look:
    """What one step shows of a block."""

    candidates: Sequence[int]
    confidence: Sequence[float]
    masked: Sequence[bool]
    num_left: int
    entropy: Sequence[float] = ()


class Rule(Protocol):
    def decide(self, look: Look) -> tuple[Positions, Positions]: ...


@dataclass
class LowConfidence:
    block_length: int
    tokens_per_step: int = 1
    num_steps_per_block: int | None = None
    step: int = 0

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        quota = self.tokens_per_step
        if self.num_steps_per_block is not None:
            quota = self.block_length // self.num_steps_per_block
            quota += self.step < self.block_length % self.num_steps_per_block
        self.step += 1
        order = sorted(masks_of(look), key=lambda i: (-look.confidence[i], i))
        return set(order[:quota]), set()


@dataclass
class Threshold:
    block_length: int
    threshold: float = 0.9

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        return {i for i in masks_of(look) if look.confidence[i] >= self.threshold}, set()


@dataclass
class Factor:
    block_length: int
    factor: float = 1.0

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        best = by_confidence(look)
        return leading(
            best, lambda n: (n + 1) * (1 - look.confidence[best[n - 1]]) <= self.factor
        ), set()


@dataclass
class Frechet:
    block_length: int
    delta: float = 0.25

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        best = by_confidence(look)
        sure = [look.confidence[i] for i in best]
        return leading(
            best, lambda n: sum(sure[:n]) - (n - 1) - (1 - sure[n - 1]) > self.delta
        ), set()


@dataclass
class EbSampler:
    block_length: int
    gamma: float = 0.1
    order_by: str = "entropy"

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        best = sorted(masks_of(look), key=lambda i: (look.entropy[i], i))
        if self.order_by == "confidence":
            best = by_confidence(look)
        spread = [look.entropy[i] for i in best]
        return leading(best, lambda n: sum(spread[:n]) - max(spread[:n]) <= self.gamma), set()


@dataclass
class LocalLeap:
    block_length: int
    threshold: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        anchors = [i for i in masks_of(look) if look.confidence[i] >= self.threshold]
        unmask = {
            i
            for i in masks_of(look)
            if look.confidence[i] >= self.relaxed
            and any(abs(i - anchor) <= self.radius for anchor in anchors)
        }
        return unmask, set()


@dataclass
class Starr:
    block_length: int
    args: dict[str, Any]
    history: dict[int, list[float]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    run: dict[int, int] = field(default_factory=dict)
    revoked: Positions = field(default_factory=set)

    def decide(self, look: Look) -> tuple[Positions, Positions]:
        a = self.args
        for i in range(self.block_length):
            same = self.last.get(i) == look.candidates[i]
            if not same and a["restart_on_flip"]:
                self.history[i] = []
            self.run[i] = self.run.get(i, 0) + 1 if same else 1
            self.history.setdefault(i, []).append(look.confidence[i])
            self.last[i] = look.candidates[i]
        masks = masks_of(look)
        step = np.quantile([look.confidence[i] for i in masks], a["quantile"]) if masks else 1.0
        step = min(max(step, a["tau_min"]), a["tau_max"])
        unmask = {i for i in masks if look.confidence[i] >= self.threshold(i, step, look)}
        revoke: Positions = set()
        if a["revoke_below"] is not None:
            unmasked = set(range(self.block_length)) - set(masks) - self.revoked
            revoke = {i for i in unmasked if look.confidence[i] < a["revoke_below"]}
            for i in revoke:
                self.history[i], self.run[i] = [], 0
            self.revoked |= revoke
        return unmask, revoke

    def threshold(self, i: int, step: float, look: Look) -> float:
        a = self.args
        window = self.history[i][-a["temporal_window"] :]
        stability = 0.0
        if len(window) >= 2:
            stability = math.exp(-float(np.std(window)) / a["sigma"])
            stability *= len(window) / a["temporal_window"]
        near = []
        for j in range(i - a["neighbour_window"], i + a["neighbour_window"] + 1):
            if j == i or j >= self.block_length or j < -look.num_left:
                continue
            near.append(look.confidence[j] if j >= 0 and look.masked[j] else 1.0)
        support = float(np.mean(near)) if near else 0.0
        deviance = look.confidence[i] - support if near else 0.0
        tau = step - a["alpha"] * stability - a["beta"] * max(0.0, support - a["support"])
        tau += a["gamma"] * max(0.0, -deviance) * (1 - stability)
        tau = min(max(tau, a["c_slow"]), a["c_fast"])
        if a["patience"] is not None:
            tau = max(a["c_slow"], tau - a["relax"] * max(0, self.run[i] - a["patience"]))
        return tau


def masks_of(look: Look) -> list[int]:
    return [i for i, masked in enumerate(look.masked) if masked]


def by_confidence(look: Look) -> list[int]:
    return sorted(masks_of(look), key=lambda i: (-look.confidence[i], i))


def leading(best: list[int], holds: Callable[[int], bool]) -> Positions:
    """The first n of ``best`` for the largest n up to which the rule holds throughout."""
    count = 0
    while count < len(best) and holds(count + 1):
        count += 1
    return set(best[:count])


def make_rule(name: str, block_length: int, args: dict[str, Any]) -> Rule:
    if name == "low_confidence":
        return LowConfidence(block_length, **args)
    if name == "threshold":
        return Threshold(block_length, **args)
    if name == "factor":
        return Factor(block_length, **args)
    if name == "frechet":
        return Frechet(block_length, **args)
    if name == "eb_sampler":
        return EbSampler(block_length, **args)
    if name == "local_leap":
        return LocalLeap(block_length, **args)
    defaults: dict[str, Any] = {
        entry.name: entry.default for entry in fields(StarrPolicy) if entry.init
    }
    return Starr(block_length, defaults | args)


def plain_softmax(logits: NDArray[np.float64], mask_token_id: int) -> NDArray[np.float64]:
    logits = logits.copy()
    logits[:, mask_token_id] = -np.inf
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
