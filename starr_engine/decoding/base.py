"""Remasking policies: which candidates of a step to keep, which positions stay masked.

Letters: n rows (one running request each), L block length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from starr_engine.errors import RequestError
from starr_engine.registry import Registry

State = dict[str, Tensor]
"""What a policy remembers of a block: tensors whose first dimension is the row.

Shapes stay as ``init_state`` gave them, except that a dimension of 0 may take its size at the first
step, which is the first to show V. Rows whose states differ in shape are decided apart.
"""


def state_shapes(state: State) -> tuple[object, ...]:
    """What the states of rows that are decided together have in common."""
    return tuple((name, tuple(values.shape[1:])) for name, values in state.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockView:
    """The active blocks of all rows under one policy; every tensor is [n, L] unless noted.

    Scores are of this step's forward. A position that was not scored (unmasked, and the policy
    does not ask for it) has confidence, top-1 and top-2 of 1, 1 and 0, and entropy 0.
    """

    candidates: Tensor
    """int64: proposed token at a mask, present token elsewhere."""

    confidence: Tensor
    """float32: softmax probability of ``candidates``, without noise and temperature."""

    top1: Tensor
    """float32: largest probability; equals ``confidence`` where the candidate is the arg-max."""

    top2: Tensor
    """float32: second largest probability."""

    entropy: Tensor
    """float32, nats."""

    masked: Tensor
    """bool: still a mask, before this step's decision."""

    step: Tensor
    """int64 [n]: denoising steps done in this block before this one."""

    num_left: Tensor
    """int64 [n]: tokens in front of the block, prompt and committed blocks; none is a mask."""

    progress: Tensor
    """float32 [n]: share of the generated positions, of all blocks, that are unmasked."""

    seed: Tensor
    """int64 [n]: the request's seed, for policies that draw; see ``decoding.draws``."""

    logit: Tensor | None = None
    """float32: the model's logit of ``candidates``, without noise, 0 where not scored. The engine
    always gives it; a view written by hand need not."""

    proposals: Tensor | None = None
    """int64: the token that the model puts forward at every scored position, also where a token
    stands: the arg-max, or what was drawn. Equals ``candidates`` elsewhere. Always given by the
    engine, like the next."""

    proposal_confidence: Tensor | None = None
    """float32: softmax probability of ``proposals``, without noise and temperature."""

    logits: Tensor | None = None
    """float32 [n, L, V], 0 where not scored; given to policies with ``needs_logits``. The mask
    token's is -inf."""

    sampling_logits: Tensor | None = None
    """As ``logits``, with what sampling added: its arg-max is the candidate. float64 if any row
    has a temperature, else the same tensor as ``logits``."""

    at_edge: Tensor | None = None
    """bool [n]: whether all that stands in front of the block is final, as it is but for the later
    sub-blocks of a block-causal mask's block. The engine always gives it; None stands for true."""

    shadow_confidence: Tensor | None = None
    """float32: probability of the present token of each unmasked position at its shadow row, which
    does not see that token; 1 at masks. Given to policies with ``needs_shadow``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What changes in the active blocks."""

    unmask: Tensor
    """bool [n, L], within the masked positions."""

    revoke: Tensor | None = None
    """bool [n, L], within the unmasked positions."""

    edit: Tensor | None = None
    """bool [n, L], within the unmasked positions and apart from ``revoke``: tokens that another
    takes the place of. For policies with ``scores_unmasked``."""

    tokens: Tensor | None = None
    """int64 [n, L]: tokens to put where ``unmask`` or ``edit`` says so; None puts the view's
    candidates at masks and its proposals at tokens. Every mask needs one, since early exit and the
    progress guarantee may unmask more."""

    hold: Tensor | None = None
    """bool [n]: rows whose block stays open although no mask may be left in it, because the policy
    is not done with its tokens; the engine bounds how often. For policies with
    ``scores_unmasked``. None holds no row."""

    signals: Mapping[str, Tensor] | None = None
    """Numbers behind the decision, [n, L] or [n, 1] by name ("threshold", "variance" ...); shown
    in traces, never acted on. "confidence" stands for the view's where a policy changed it."""

    def tokens_put(self, view: BlockView) -> Tensor:
        """int64 [n, L]: what is put wherever ``unmask`` or ``edit`` says so."""
        if self.tokens is not None:
            return self.tokens
        if self.edit is None or view.proposals is None:
            return view.candidates
        return torch.where(view.masked, view.candidates, view.proposals)


class RemaskingPolicy(Protocol):
    """A pure function of tensors over all rows at once.

    Implementations are frozen data classes: their fields are the ``remasking_args``, and rows of
    equal policies are decided together. The engine guarantees that every row makes progress.
    ``PolicyDefaults`` declares what most of them need; a need that is declared nowhere is an error
    when a request is added.
    """

    @property
    def scores_unmasked(self) -> bool:
        """Whether tokens of the active block are scored again after they were unmasked."""
        ...

    @property
    def needs_logits(self) -> bool:
        """Whether the view must hold the logits, which takes n * L * V numbers."""
        ...

    @property
    def needs_shadow(self) -> bool:
        """Whether tokens of the active block are checked by shadow rows.

        A shadow row is a second query row at a position of the block; it holds the mask and sees
        everything but the token at that position.
        """
        ...

    @property
    def step_limit(self) -> int | None:
        """Steps after which the policy is done with a block, whatever it has taken back.

        Its rows then need no other bound: the engine neither makes them unmask at every step nor
        counts their revocations, and ends the block at this step. None leaves that to the engine.
        """
        ...

    def temperature(self, step: int) -> float:
        """What the policy divides the logits by at a step of a block, counted from 0.

        Self-conditioned models are told their logits so at the next step. 1 if it reads them as
        they are.
        """
        ...

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """The state of ``rows`` blocks that have just been opened; empty if stateless."""
        ...

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """The decision of this step and the state after it; neither argument is changed."""
        ...


class EngineBounded:
    """What nearly all policies answer: the engine ends blocks, and logits are read as they are."""

    __slots__ = ()

    @property
    def step_limit(self) -> int | None:
        """None: the engine sees to it that every block ends."""
        return None

    def temperature(self, step: int) -> float:
        """1: logits are read as they are."""
        del step
        return 1.0


class PolicyDefaults(EngineBounded):
    """What most policies ask of a step: only masks scored, no logits, no shadow rows."""

    __slots__ = ()

    scores_unmasked: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_shadow: ClassVar[bool] = False


class StatelessPolicy(PolicyDefaults):
    """What most policies answer: nothing to remember, and the defaults for the rest."""

    __slots__ = ()

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Stateless."""
        return {}


REMASKING_POLICIES: Registry[RemaskingPolicy] = Registry(
    "remasking policy",
    RequestError,
    group="starr_engine.remasking_policies",
    members=(
        "scores_unmasked", "needs_logits", "needs_shadow", "step_limit", "temperature",
        "init_state", "decide",
    ),
)  # fmt: skip
for _name, _target in {
    "low_confidence": "low_confidence:LowConfidencePolicy",
    "random": "random:RandomPolicy",
    "entropy": "entropy:EntropyPolicy",
    "margin": "margin:MarginPolicy",
    "ancestral": "ancestral:AncestralPolicy",
    "maskgit_plus": "maskgit_plus:MaskgitPlusPolicy",
    "threshold": "threshold:ThresholdPolicy",
    "progress_threshold": "progress_threshold:ProgressThresholdPolicy",
    "age_threshold": "age_threshold:AgeThresholdPolicy",
    "factor": "factor:FactorPolicy",
    "frechet": "frechet:FrechetPolicy",
    "eb_sampler": "eb_sampler:EbSamplerPolicy",
    "local_leap": "local_leap:LocalLeapPolicy",
    "hierarchy": "hierarchy:HierarchyPolicy",
    "starr": "starr:StarrPolicy",
    "stdec": "stdec:StdecPolicy",
    "klass": "klass:KlassPolicy",
    "dynamic_dllm": "dynamic_dllm:DynamicDllmPolicy",
    "tacg": "tacg:TacgPolicy",
    "credit": "credit:CreditPolicy",
    "saber": "saber:SaberPolicy",
    "t2m": "t2m:T2mPolicy",
    "token_edit": "token_edit:TokenEditPolicy",
    "wino": "wino:WinoPolicy",
    "entropy_bound": "entropy_bound:EntropyBoundPolicy",
}.items():
    REMASKING_POLICIES.add(_name, f"starr_engine.decoding.policies.{_target}")
