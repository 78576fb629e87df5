"""The policies with memory a second time, one position after another in plain Python floats.

Each is made anew for a block; ``decide(look)`` gives offsets to unmask, offsets to revoke, and the
tokens to put. Written from the published rules, not from the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Answer = tuple[set[int], set[int], list[int]]


@dataclass(frozen=True)
class BlockLook:
    """One row of a view; ``logits`` are empty where the policy needs none."""

    candidates: list[int]
    confidence: list[float]
    top1: list[float]
    top2: list[float]
    masked: list[bool]
    num_left: int
    logits: list[list[float]]

    @property
    def masks(self) -> list[int]:
        return [i for i, masked in enumerate(self.masked) if masked]

    @property
    def tokens(self) -> list[int]:
        return [i for i, masked in enumerate(self.masked) if not masked]


class Twin(Protocol):
    def decide(self, look: BlockLook) -> Answer: ...


def softmax(logits: Sequence[float]) -> list[float]:
    most = max(logits)
    powers = [math.exp(x - most) for x in logits]
    return [power / sum(powers) for power in powers]


def best(among: Sequence[int], key: Callable[[int], float], count: int) -> set[int]:
    return set(sorted(among, key=lambda i: (-key(i), i))[:count])


@dataclass
class Streaks:
    """Steps in a row with one candidate, this one included."""

    last: dict[int, int] = field(default_factory=dict)
    count: dict[int, int] = field(default_factory=dict)

    def see(self, look: BlockLook) -> None:
        for i, token in enumerate(look.candidates):
            self.count[i] = self.count.get(i, 0) + 1 if self.last.get(i) == token else 1
            self.last[i] = token


@dataclass
class Klass:
    args: dict[str, Any]
    before: list[list[float]] = field(default_factory=list)
    seen: list[list[float]] = field(default_factory=list)

    def decide(self, look: BlockLook) -> Answer:
        now = [softmax(logits) for logits in look.logits]
        before = self.before or [[0.0] * len(p) for p in now]
        self.seen.append(
            [
                sum(
                    p * (math.log(p + 1e-12) - math.log(q + 1e-12))
                    for p, q in zip(new, old, strict=True)
                )
                for new, old in zip(now, before, strict=True)
            ]
        )
        self.before = now
        recent = self.seen[-self.args["history"] :]
        ready = {
            i
            for i in look.masks
            if len(recent) == self.args["history"]
            and all(step[i] < self.args["epsilon"] for step in recent)
            and look.confidence[i] > self.args["tau"]
        }
        quota = self.args["tokens_per_step"]
        return (
            ready or best(look.masks, lambda i: look.confidence[i], quota),
            set(),
            look.candidates,
        )


@dataclass
class DynamicDllm:
    args: dict[str, Any]
    before: list[list[float]] = field(default_factory=list)
    theta: list[float] = field(default_factory=list)

    def decide(self, look: BlockLook) -> Answer:
        a = self.args
        now = [softmax(logits) for logits in look.logits]
        if not self.before:
            self.theta = [a["theta_0"]] * len(now)
        else:
            peak = [1 - second for second in look.top2]
            shift = [1 - cosine(p, q) for p, q in zip(now, self.before, strict=True)]
            moves = [a["beta"] * d - a["alpha"] * p for p, d in zip(peak, shift, strict=True)]
            if a["mode"] == "mean":
                moves = [sum(moves[i] for i in look.masks) / len(look.masks)] * len(now)
            low = -math.inf if a["theta_min"] is None else a["theta_min"]
            high = math.inf if a["theta_max"] is None else a["theta_max"]
            self.theta = [
                min(max(t + m, low), high) for t, m in zip(self.theta, moves, strict=True)
            ]
        self.before = now
        unmask = {i for i in look.masks if look.confidence[i] >= self.theta[i]}
        return unmask, set(), look.candidates


def cosine(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q)


@dataclass
class Stdec:
    args: dict[str, Any]
    streaks: Streaks = field(default_factory=Streaks)

    def decide(self, look: BlockLook) -> Answer:
        a = self.args
        self.streaks.see(look)
        reach = max(1, math.ceil(3 * a["sigma"]))

        def threshold(i: int) -> float:
            share = total = 0.0
            for j in range(i - reach, i + reach + 1):
                weight = math.exp(-(((i - j) / a["sigma"]) ** 2) / 2) if i != j else 0.0
                total += weight
                if -look.num_left <= j < 0 or j in look.tokens:
                    share += weight
            steady = self.streaks.count[i] >= a["patience"]
            return float(a["tau"] - a["spatial"] * share / total - a["temporal"] * steady)

        unmask = {i for i in look.masks if look.confidence[i] >= threshold(i)}
        return unmask, set(), look.candidates


@dataclass
class Tacg:
    args: dict[str, Any]
    streaks: Streaks = field(default_factory=Streaks)
    average: list[list[float]] = field(default_factory=list)

    def decide(self, look: BlockLook) -> Answer:
        a = self.args
        self.streaks.see(look)
        logits = [row[:-1] for row in look.logits]  # without the mask token
        average = self.average or logits
        c = look.confidence
        score = [0.0] * len(c)
        for i in look.masks:
            guided = [
                e + (1 + a["guidance"]) * (x - e)
                for x, e in zip(logits[i], average[i], strict=True)
            ]
            token = look.candidates[i]
            rise = softmax(guided)[token] - softmax(average[i])[token]
            score[i] = c[i] + a["bonus"] * max(0.0, rise)
        keep = a["decay"]
        self.average = [
            [keep * e + (1 - keep) * x for x, e in zip(row, old, strict=True)]
            for row, old in zip(logits, average, strict=True)
        ]
        base = {i for i in look.masks if c[i] > a["tau"]}
        near = [i for i in look.masks if a["floor"] < c[i] <= a["tau"]]
        quota = min(a["extra_max"], math.ceil(a["extra_ratio"] * max(len(base), 1)))
        if not base and not a["allow_empty_base"]:
            quota = 0
        chosen = base | best(near, lambda i: score[i], quota)
        chosen = chosen or best(look.masks, lambda i: score[i], a["tokens_per_step"])
        lasting = {
            i for i in chosen if self.streaks.count[i] >= a["min_streak"] or c[i] >= a["escape"]
        }
        return lasting or best(sorted(chosen), lambda i: score[i], 1), set(), look.candidates


@dataclass
class Credit:
    args: dict[str, Any]
    credit: list[list[float]] = field(default_factory=list)

    def decide(self, look: BlockLook) -> Answer:
        a = self.args
        self.credit = self.credit or [[0.0] * len(row) for row in look.logits]
        tokens, confidence = list(look.candidates), [0.0] * len(look.masked)
        for row in self.credit:
            row[:] = [a["decay"] * value for value in row]
        for i in look.masks:
            p = softmax(look.logits[i])
            leader = p.index(max(p))
            self.credit[i][leader] += p[leader] ** a["gamma"]
            fused = [
                x + a["alpha"] * math.log(1 + value)
                for x, value in zip(look.logits[i], self.credit[i], strict=True)
            ]
            tokens[i] = fused.index(max(fused))
            confidence[i] = softmax(fused)[tokens[i]]
        sure = {i for i in look.masks if confidence[i] >= a["threshold"]}
        return sure or best(look.masks, lambda i: confidence[i], 1), set(), tokens


@dataclass
class Saber:
    args: dict[str, Any]
    last: dict[int, float] = field(default_factory=dict)
    accepted: dict[int, float] = field(default_factory=dict)

    def decide(self, look: BlockLook) -> Answer:
        n = self.args["n"]
        c = [
            c if masked else p
            for c, p, masked in zip(look.confidence, look.top1, look.masked, strict=True)
        ]
        theta = sum(self.accepted.values()) / len(self.accepted) if self.accepted else 1.0
        above = {i for i in look.masks if c[i] > theta}
        chosen = above if len(above) >= n else best(look.masks, lambda i: c[i], n)
        for i in chosen:
            self.accepted[i] = c[i]
        size = max(n, len(above))
        count = min(max(n // 2, math.ceil(size / 8)), size - 1)
        present = chosen | set(look.tokens)
        change = {i: c[i] - self.last.get(i, 0.0) for i in present}
        self.last = dict(enumerate(c))
        back: set[int] = set()
        if len(present) < len(c):
            back = set(sorted(present, key=lambda i: (change[i], -i))[:count])
        return chosen - back, back - chosen, look.candidates


@dataclass
class T2m:
    args: dict[str, Any]
    last: list[float] = field(default_factory=list)
    resets: dict[int, int] = field(default_factory=dict)

    def decide(self, look: BlockLook) -> Answer:
        a, c = self.args, look.confidence
        doubts = {
            "low_prob": lambda i: 1 - c[i],
            "t2t_remask": lambda i: look.top1[i] if c[i] < look.top1[i] else 0.0,
            "logit_diff": lambda i: abs(c[i] - self.last[i]) if self.last else 0.0,
        }
        published = {"low_prob": 0.5, "t2t_remask": 0.9, "logit_diff": 0.3}
        limit = a["remask_threshold"]
        limit = published[a["strategy"]] if limit is None else limit
        doubt = doubts[a["strategy"]]
        may = [
            i
            for i in look.tokens
            if (c[i] < limit if a["strategy"] == "low_prob" else doubt(i) > limit)
            and self.resets.get(i, 0) < a["max_resets"]
        ]
        revoke = best(may, doubt, max(1, math.floor(a["max_share"] * len(look.tokens))))
        for i in revoke:
            self.resets[i] = self.resets.get(i, 0) + 1
        self.last = list(c)
        return {i for i in look.masks if c[i] >= a["threshold"]}, revoke, look.candidates


TWINS: dict[str, Callable[[dict[str, Any]], Twin]] = {
    "klass": Klass,
    "dynamic_dllm": DynamicDllm,
    "stdec": Stdec,
    "tacg": Tacg,
    "credit": Credit,
    "saber": Saber,
    "t2m": T2m,
}
