"""What the engine relies on in every cache policy, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, Final, cast

from starr_engine._core import PlanError, validate_plan
from starr_engine.cache.base import CACHE_POLICIES, EXACT, CachePolicy, StepPlan
from starr_engine.cache.rows import RowRanges, difference, intersection, union
from starr_engine.engine.running import RequestView
from starr_engine.llm import LLM
from starr_engine.params import Args, SamplingParams
from starr_engine.testing.cache_plays import PlayedStep, empty_pages, play_request, plays

_ATTENTION: Final = {None: "bidirectional", 8: "block-causal"}
_MODELS: Final = ("tiny-llada", "tiny-sdar")
"""Of both kinds of attention, shipped."""

_PROMPTS: Final = (
    "Ben has 20 books. Ben drops 6. Next Ben gets 8 more. How many books are left for Ben?",
    "Put in falling order: 2, 25, 18, 73, 60",
    "Write as JSON: In Delhi there is a pilot named Sara, 61 years old.",
)
_ROUNDING: Final = 1e-4
"""Largest KL, in nats, of two float32 forwards of equal rows."""

_SWITCHES: Final = (
    "uses_pages", "shares_prefix", "isolates_prompt", "resumable", "needs_drift", "keeps_features"
)  # fmt: skip


def check_cache(
    name: str, args: Args | None = None, *, seeds: range = range(4), generates: bool = True
) -> None:
    """Hold a cache policy to the rules, on made-up requests and on the shipped models.

    - value: a frozen data class of values; made again from the same arguments it is equal and
      hashes equally; what it declares is True or False; a label is ``exact`` or ``approximate:``
      and why; it serves at least one kind of attention, and says why it refuses the other.
    - plans: no plan of a random request breaks a rule of the check in C++, and every row that is
      scored is computed; sets are sorted, disjoint ranges. With and without shifted logits, gaps,
      and tokens that are taken back.
    - purity: asked twice, the same view gives the same plan.
    - pages: without ``uses_pages`` nothing is written; partial rows come with ``keeps_features``.
    - resumable: a request that loses its pages between two blocks gets a plan that can run.
    - engine: a request gives the same tokens alone and beside other caches; where the label is
      ``exact``, every step's logits are those of a forward without any reuse.

    Args:
        name: As it is registered.
        args: The ``cache_args`` of what is to be checked.
        seeds: Of the random requests.
        generates: False leaves the engine out.

    Raises:
        AssertionError: Says which rule is broken, and in which request at which step.
        RequestError: If there is no such policy, or it does not take the arguments.
    """
    policy = CACHE_POLICIES.create(name, args or {})
    _check_value(policy)
    served = [block for block in _ATTENTION if not policy.refusal(block)]
    _require(bool(served), "value: it refuses bidirectional and block-causal models alike")
    for mask_block in served:
        for play in plays(mask_block, seeds):
            for at in play_request(policy, play):
                where = f"(step {at.step}, {play})"
                _check_plan(policy, at, at.plan, where)
                again = policy.plan(RequestView(at.running))
                _require(again == at.plan, f"purity: asked twice it plans differently {where}")
                _check_resumable(policy, at, where)
    if generates:
        for model in _MODELS:
            _check_engine(policy, SamplingParams(cache=name, cache_args=args or {}), model)


def _require(good: bool, rule: str) -> None:
    # No assert statement: python -O would leave it out.
    if not good:
        raise AssertionError(rule)


def _check_value(policy: CachePolicy) -> None:
    frozen = is_dataclass(policy) and cast(Any, policy).__dataclass_params__.frozen
    _require(frozen, f"value: {type(policy).__name__} must be a frozen data class")
    again = replace(cast(Any, policy))
    _require(again == policy, "value: made again from the same arguments it must be equal")
    try:
        same_hash = hash(again) == hash(policy)
    except TypeError as error:
        raise AssertionError(f"value: it must have a hash: {error}") from error
    _require(same_hash, "value: made again from the same arguments it must have the same hash")
    for name in _SWITCHES:
        answer = getattr(policy, name, None)
        _require(isinstance(answer, bool), f"value: {name} must be True or False, got {answer!r}")
    for mask_block, kind in _ATTENTION.items():
        refusal = policy.refusal(mask_block)
        _require(isinstance(refusal, str), f"value: refusal must be a text, got {refusal!r}")
        label = policy.label(mask_block)
        good = label == EXACT or (label.startswith("approximate: ") and len(label) > 13)
        rule = f"value: the label for {kind} models must be 'exact' or 'approximate: WHY'"
        _require(bool(refusal) or good, f"{rule}, got {label!r}")


def _check_plan(policy: CachePolicy, at: PlayedStep, plan: StepPlan, where: str) -> None:
    running = at.running
    canvas = running.request.canvas
    for name in ("query", "write", "read", "partial"):
        rows: RowRanges = getattr(plan, name)
        _require(union(rows) == rows, f"plans: {name} must be sorted, disjoint ranges {where}")
    try:
        validate_plan(
            plan.query, plan.write, plan.read, RequestView(running).scored, running.pages,
            canvas.num_live, (canvas.block_start, canvas.block_stop), bool(plan.dirty_allowed),
        )  # fmt: skip
    except PlanError as error:
        raise AssertionError(f"plans: {error} {where}") from error
    _require(policy.uses_pages or not plan.write, f"pages: it writes without uses_pages {where}")
    if plan.partial:
        _require(policy.keeps_features, f"pages: partial rows without keeps_features {where}")
        cached = RequestView(running).cached
        outside = difference(plan.partial, intersection(plan.write, cached))
        rule = f"pages: partial must be within write and the rows cached, not {outside} {where}"
        _require(not outside, rule)


def _check_resumable(policy: CachePolicy, at: PlayedStep, where: str) -> None:
    """What the engine does to a request when pages run out between two blocks."""
    request, pages = at.running.request, at.running.pages
    if not policy.resumable or request.steps_in_block or pages is None:
        return
    kept = request.steps_since_refresh, request.drift_since_refresh
    at.running.pages = empty_pages(request.canvas.num_live)
    request.steps_since_refresh, request.drift_since_refresh = 0, 0.0
    try:
        _check_plan(policy, at, at.running.plan(), f"resumed without its pages {where}")
    finally:
        at.running.pages = pages
        request.steps_since_refresh, request.drift_since_refresh = kept


def _check_engine(policy: CachePolicy, params: SamplingParams, model: str) -> None:
    llm = LLM(model, dtype="float32", device="cpu", num_threads=1)
    mask_block = llm.engine.spec.mask_block
    if policy.refusal(mask_block):
        return
    # Two tokens a step leave many steps inside each block; probes compute each of them anew.
    common: Mapping[str, Any] = {
        "max_tokens": 40,
        "ignore_eos": True,
        "remasking": "low_confidence",
        "remasking_args": {"tokens_per_step": 2},
    }
    wanted = params.with_overrides({**common, "cache_probe_rate": 1.0})
    other = SamplingParams(cache="auto", **common)
    alone = [llm.generate(prompt, wanted)[0] for prompt in _PROMPTS]
    mixed = llm.generate(_PROMPTS * 2, [wanted, other] * len(_PROMPTS))
    for at, output in enumerate(mixed):
        _require(output.error is None, f"engine: {model}: {output.error}")
        if at % 2 == 0:
            same = output.token_ids == alone[at % len(_PROMPTS)].token_ids
            _require(same, f"engine: {model}: other tokens beside other caches than alone")
    if policy.label(mask_block) != EXACT:
        return
    for output in alone:
        drift = output.drift
        assert drift is not None, "every step is probed"
        _require(
            drift.flip_rate == 0 and (drift.max_kl or 0.0) <= _ROUNDING,
            f"engine: {model}: the label says exact, and logits are off by a KL of up to "
            f"{drift.max_kl} nats",
        )
