"""Cache policies: which rows of a request to compute, keep and read at a denoising step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, Protocol

from starr_engine.cache.rows import RowRanges, num_rows
from starr_engine.errors import RequestError
from starr_engine.registry import Registry

EXACT: Final = "exact"


def approximate(*reasons: str) -> str:
    """The label of what is reused for these reasons; exact if there are none."""
    return f"approximate: {', '.join(reasons)}" if reasons else EXACT


class StepKind(Enum):
    """What a step is for; the same forward either way, told apart in statistics."""

    PREFILL = "prefill"
    """Rows in front of the active block are computed for the first time."""

    REFRESH = "refresh"
    """Rows that had been reused, or not been computed yet, are computed."""

    BLOCK = "block"
    """Only what this step needs is computed."""

    COMMIT = "commit"
    """The block before is computed with its final tokens, beside the active block's first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The rows of one request in one denoising step; checked in C++ before it runs.

    With live rows L: write W and score D are subsets of query A, read R is a subset of A and the
    rows cached earlier. What is read comes either all from pages (what A and R share is in W, or
    cached and clean) or all from this step's rows (W empty, R equal to A).
    """

    kind: StepKind
    query: RowRanges
    """A: rows computed."""

    write: RowRanges
    """W: rows whose key and value go to pages."""

    read: RowRanges
    """R: rows attended to."""

    isolated: int = 0
    """Rows in front of this one see each other and no others, so that their keys and values depend
    on their own tokens alone."""

    dirty_allowed: str = ""
    """Why rows may be read as context although their token changed since they were computed;
    empty refuses such a plan."""

    partial: RowRanges = ()
    """Rows of W that the layers behind the first compute in part: all get a new value, and those
    whose value has turned most since the last step get the rest. The others keep their key, and
    add to themselves what attention and the feed-forward part had added before."""

    num_chosen: int = 0
    """How many of ``partial`` get the rest."""

    @property
    def num_query_rows(self) -> int:
        """Rows computed."""
        return num_rows(self.query)

    @property
    def is_self_contained(self) -> bool:
        """Whether it computes all that it reads, so that no page needs to hold anything."""
        return self.query == self.read


class CacheView(Protocol):
    """All that a cache policy may know of a request."""

    @property
    def num_rows(self) -> int:
        """Live rows: prompt and canvas, or up to the active block's end if block-causal."""
        ...

    @property
    def block_start(self) -> int:
        """First row of the active block."""
        ...

    @property
    def block_stop(self) -> int:
        """First row behind the active block."""
        ...

    @property
    def prompt_len(self) -> int:
        """Rows in front of the first mask that the request began with."""
        ...

    @property
    def mask_block(self) -> int | None:
        """Rows up to whose multiples final rows see; None if the model is bidirectional.

        The block length of a block-causal mask; 1 where final rows are causal.
        """
        ...

    @property
    def logits_shift(self) -> int:
        """1 if the logits of a position are those of the row in front of it, else 0."""
        ...

    @property
    def num_steps(self) -> int:
        """Denoising steps done."""
        ...

    @property
    def steps_in_block(self) -> int:
        """Denoising steps done in the active block."""
        ...

    @property
    def steps_since_refresh(self) -> int:
        """Denoising steps done since the last refresh, that one included; 0 before the first."""
        ...

    @property
    def drift_since_refresh(self) -> float:
        """What the drift signal has added up to since the last refresh; 0 without one."""
        ...

    @property
    def num_clean(self) -> int:
        """Rows in front of the first one that is not cached or dirty."""
        ...

    @property
    def cached(self) -> RowRanges:
        """Rows that have a key and value in pages."""
        ...

    @property
    def dirty(self) -> RowRanges:
        """Rows whose token changed after their key and value were written."""
        ...

    @property
    def masked(self) -> RowRanges:
        """Live rows that hold a mask."""
        ...

    @property
    def first_scored(self) -> int:
        """First of the ``scored`` rows; ``block_stop`` if there are none."""
        ...

    @property
    def scored(self) -> RowRanges:
        """Rows whose logits the remasking policy needs; a plan computes them.

        Those of the masks of the active block, and for policies that look at tokens again of
        these too; each a row in front where logits are shifted.
        """
        ...


class CachePolicy(Protocol):
    """A pure function from a request's position to its next plan.

    Implementations are frozen data classes: their fields are the ``cache_args``.
    ``CacheDefaults`` declares what most of them need.
    """

    uses_pages: ClassVar[bool]
    """Whether a request under this policy needs pages."""

    shares_prefix: ClassVar[bool]
    """Whether it never writes rows again once they are final, so that requests can share them."""

    @property
    def isolates_prompt(self) -> bool:
        """Whether prompt rows see the prompt alone, so that requests of one prompt share them."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether the plan of a block's first step depends on no earlier step.

        A request may then lose its pages between two blocks, and its tokens stay what they were.
        """
        ...

    @property
    def needs_drift(self) -> bool:
        """Whether the view must say how far computed rows drift."""
        ...

    @property
    def keeps_features(self) -> bool:
        """Whether plans have ``partial`` rows: what each layer adds to rows is then kept too."""
        ...

    def label(self, mask_block: int | None) -> str:
        """``exact``, or ``approximate: <why>``; travels with every output.

        Args:
            mask_block: As in ``CacheView``; None if the model is bidirectional.
        """
        ...

    def refusal(self, mask_block: int | None) -> str:
        """Why it cannot serve a model of this attention; empty if it can."""
        ...

    def plan(self, view: CacheView) -> StepPlan:
        """The rows of the next denoising step."""
        ...


class CacheDefaults:
    """What most policies answer: pages of their own, and any model."""

    __slots__ = ()

    uses_pages: ClassVar[bool] = True
    shares_prefix: ClassVar[bool] = False

    @property
    def resumable(self) -> bool:
        """Everything is computed anew at a block's start."""
        return True

    @property
    def needs_drift(self) -> bool:
        """No."""
        return False

    @property
    def keeps_features(self) -> bool:
        """No."""
        return False

    @property
    def isolates_prompt(self) -> bool:
        """No."""
        return False

    def refusal(self, mask_block: int | None) -> str:
        """Serves every model."""
        del mask_block
        return ""


CACHE_POLICIES: Registry[CachePolicy] = Registry(
    "cache policy",
    RequestError,
    group="starr_engine.cache_policies",
    members=(
        "label", "refusal", "resumable", "needs_drift", "keeps_features", "isolates_prompt",
        "uses_pages",
        "shares_prefix", "plan",
    ),
)  # fmt: skip
for _name, _target in {
    "none": "none:NoCache",
    "prefix": "prefix:PrefixCache",
    "dual": "dual:DualCache",
    "vicinity": "vicinity:VicinityCache",
    "delayed": "delayed:DelayedCache",
    "dllm": "dllm:DLLMCache",
    "block_causal": "block_causal:BlockCausalCache",
}.items():
    CACHE_POLICIES.add(_name, f"starr_engine.cache.policies.{_target}")
