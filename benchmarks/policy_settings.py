"""The settings of the policy study: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from starr_engine.params import ArgValue

REFERENCE = "one token per step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One policy with its arguments."""

    policy: str
    args: Mapping[str, ArgValue] = field(default_factory=dict)

    kind: str = "table"
    """``table``, ``ablation`` or ``curve``."""

    curve: str = ""
    """Name of the curve that a setting of kind ``curve`` is a point of."""

    cache: str = ""
    """Cache policy; empty takes the study's."""

    cache_args: Mapping[str, ArgValue] = field(default_factory=dict)


TABLE: Mapping[str, Setting] = {
    REFERENCE: Setting(policy="low_confidence"),
    "2 tokens per step": Setting(policy="low_confidence", args={"tokens_per_step": 2}),
    "4 tokens per step": Setting(policy="low_confidence", args={"tokens_per_step": 4}),
    "random, 2 per step": Setting(policy="random", args={"tokens_per_step": 2}),
    "entropy, 2 per step": Setting(policy="entropy", args={"tokens_per_step": 2}),
    "margin, 2 per step": Setting(policy="margin", args={"tokens_per_step": 2}),
    "maskgit_plus, 8 steps per block": Setting(
        policy="maskgit_plus", args={"num_steps_per_block": 8}
    ),
    "threshold 0.9": Setting(policy="threshold"),
    "factor 1": Setting(policy="factor"),
    "frechet 0.25": Setting(policy="frechet"),
    "eb_sampler 0.1": Setting(policy="eb_sampler"),
    "local_leap": Setting(policy="local_leap"),
    "progress_threshold": Setting(policy="progress_threshold"),
    "age_threshold": Setting(policy="age_threshold"),
    "hierarchy": Setting(policy="hierarchy"),
    "klass": Setting(policy="klass"),
    "dynamic_dllm": Setting(policy="dynamic_dllm"),
    "stdec": Setting(policy="stdec"),
    "tacg": Setting(policy="tacg"),
    "credit": Setting(policy="credit"),
    "saber": Setting(policy="saber"),
    "t2m": Setting(policy="t2m"),
    "wino": Setting(policy="wino"),
    "starr": Setting(policy="starr"),
}
"""Every policy with its published defaults; REFERENCE is what agreement is measured against."""

ABLATIONS: Mapping[str, Mapping[str, ArgValue]] = {
    "starr, alpha = 0": {"alpha": 0.0},
    "starr, beta = 0": {"beta": 0.0},
    "starr, gamma = 0": {"gamma": 0.0},
    "starr, tau fixed": {"tau_min": 0.9, "tau_max": 0.9},
    "starr, no restart": {"restart_on_flip": False},
    "starr, patience 3": {"patience": 3},
}
"""What differs from the base that is taken apart: one term off, or on, each."""

CURVES: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "threshold": ("threshold", "threshold", (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)),
    "factor": ("factor", "factor", (0.25, 0.5, 0.75, 1.0, 1.5, 2.5)),
    "frechet": ("frechet", "delta", (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)),
    "eb_sampler": ("eb_sampler", "gamma", (0.005, 0.02, 0.1, 0.3, 1.0)),
    "local_leap": ("local_leap", "relaxed", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "klass": ("klass", "tau", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "credit": ("credit", "threshold", (0.6, 0.7, 0.8, 0.9, 0.95)),
    "stdec": ("stdec", "tau", (0.6, 0.7, 0.8, 0.9, 0.95)),
    "wino": ("wino", "tau1", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "starr": ("starr", "alpha", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
}
"""Curve name to policy, its one argument that is swept, and the values."""

CALIBRATED = "starr, calibrated"


def study_settings(calibrated: Mapping[str, ArgValue] | None = None) -> dict[str, Setting]:
    """All settings by name, the reference first.

    Args:
        calibrated: Arguments of ``starr`` that calibration found; they are also what the ablation
            takes apart and what the curve of ``starr`` starts from. None leaves them out.
    """
    base = dict(calibrated or {})
    settings = dict(TABLE)
    if calibrated is not None:
        settings[CALIBRATED] = Setting(policy="starr", args=base)
    for name, change in ABLATIONS.items():
        settings[name] = Setting(policy="starr", args=base | change, kind="ablation")
    for curve, (policy, argument, values) in CURVES.items():
        common = Setting(policy=policy, kind="curve", curve=curve)
        start = base if policy == "starr" else {}
        for value in values:
            settings[f"{curve}: {argument} {value:g}"] = replace(
                common, args={**start, argument: value}
            )
    return settings
