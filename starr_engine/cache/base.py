"""Cache policies: which rows of a request to compute, keep and read at a denoising step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from starr_engine.errors import RequestError
from starr_engine.registry import Registry

RowRanges = tuple[tuple[int, int], ...]
"""Sorted, disjoint half-open ranges of rows of one canvas."""


class StepKind(Enum):
    """What a step is for; the same forward either way, told apart in statistics."""

    REFRESH = "refresh"
    """Rows that had been reused, or not been computed yet, are computed."""

    BLOCK = "block"
    """Only what this step needs is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The rows of one request in one denoising step; checked in C++ before it runs.

    With live rows L: write W and score D are subsets of query A, read R is a subset of A and the
    rows cached earlier. What is read comes either all from pages (A and R meet only in W) or all
    from this step's rows (W empty, R within A).
    """

    kind: StepKind
    query: RowRanges
    """A: rows computed."""

    write: RowRanges
    """W: rows whose key and value go to pages."""

    read: RowRanges
    """R: rows attended to."""

    dirty_allowed: str = ""
    """Why rows may be read as context although their token changed since they were computed;
    empty refuses such a plan."""

    @property
    def num_query_rows(self) -> int:
        """Rows computed."""
        return sum(stop - start for start, stop in self.query)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheView:
    """All that a cache policy may know of a request."""

    num_rows: int
    """Live rows: prompt and canvas."""

    block_start: int
    block_stop: int

    steps_in_block: int
    """Denoising steps done in the active block."""

    steps_since_refresh: int
    """Denoising steps done since the last refresh, that one included; 0 before the first."""


class CachePolicy(Protocol):
    """A pure function from a request's position to its next plan.

    Implementations are frozen data classes: their fields are the ``cache_args``.
    """

    @property
    def label(self) -> str:
        """``exact``, or ``approximate: <why>``; travels with every output."""
        ...

    uses_pages: ClassVar[bool]
    """Whether a request under this policy needs pages."""

    def plan(self, view: CacheView) -> StepPlan:
        """The rows of the next denoising step."""
        ...


CACHE_POLICIES: Registry[CachePolicy] = Registry(
    "cache policy",
    RequestError,
    group="starr_engine.cache_policies",
    members=("label", "uses_pages", "plan"),
)
CACHE_POLICIES.add("none", "starr_engine.cache.policies.none:NoCache")
CACHE_POLICIES.add("dual", "starr_engine.cache.policies.dual:DualCache")
