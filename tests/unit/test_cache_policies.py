"""Exact plans of every cache policy, its labels, and what it refuses."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from starr_engine.cache.base import CACHE_POLICIES, StepKind
from starr_engine.cache.rows import RowRanges
from starr_engine.errors import RequestError
from tests.helpers.cache_views import View

ALL: RowRanges = ((0, 40),)
BLOCK: RowRanges = ((24, 32),)
Expected = tuple[StepKind, RowRanges, RowRanges, RowRanges]


def refresh(rows: RowRanges = ALL) -> Expected:
    return StepKind.REFRESH, rows, rows, rows


def block(rows: RowRanges, read: RowRanges = ALL) -> Expected:
    return StepKind.BLOCK, rows, rows, read


def plan(name: str, view: View, **args: Any) -> Expected:
    made = CACHE_POLICIES.create(name, args).plan(view)
    assert not made.dirty_allowed
    return made.kind, made.query, made.write, made.read


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("prefix", ((24, 40),)),
        ("dual", BLOCK),
        ("vicinity", ((8, 40),)),
        ("delayed", ((26, 40),)),
    ],
)
def test_a_block_begins_with_a_refresh_and_goes_on_with_the_inner_rows(
    name: str, inner: RowRanges
) -> None:
    assert plan(name, View(steps_in_block=0, steps_since_refresh=7)) == refresh()
    assert plan(name, View(steps_in_block=2, steps_since_refresh=2)) == block(inner)


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("prefix", ((23, 40),)),
        ("dual", ((23, 32),)),
        ("vicinity", ((7, 40),)),
        ("delayed", ((23, 40),)),
        ("dllm", ((15, 40),)),
    ],
)
def test_with_shifted_logits_the_row_in_front_goes_along_while_the_first_position_is_scored(
    name: str, inner: RowRanges
) -> None:
    view = {"logits_shift": 1, "steps_in_block": 2, "steps_since_refresh": 2, "num_steps": 9}
    assert plan(name, View(**view, masked=((24, 40),), scored=((23, 31),))) == block(inner)
    if name == "dual":
        assert plan(name, View(**view, scored=((25, 31),))) == block(BLOCK)


def test_what_an_isolated_prompt_is_asked_for_is_read_and_not_written() -> None:
    first_block = View(
        logits_shift=1, block_start=16, block_stop=24, steps_since_refresh=2, steps_in_block=2,
        masked=((16, 40),), scored=((15, 23),),
    )  # fmt: skip
    made = CACHE_POLICIES.create("dual", {"isolate_prompt": True}).plan(first_block)
    assert (made.query, made.write, made.read) == (((15, 24),), ((16, 24),), ALL)
    assert made.isolated == 16


@pytest.mark.parametrize("name", ["prefix", "dual", "vicinity", "delayed"])
def test_the_next_refresh_is_counted_from_the_last(name: str) -> None:
    view = {"steps_in_block": 9, "num_steps": 9}
    assert plan(name, View(**view, steps_since_refresh=3), refresh_every=4)[0] is StepKind.BLOCK
    assert plan(name, View(**view, steps_since_refresh=4), refresh_every=4) == refresh()


def test_without_refreshes_blocks_begin_with_what_is_stale_or_new() -> None:
    new_block = View(
        steps_in_block=0,
        steps_since_refresh=12,
        dirty=((20, 21), (22, 24)),
        cached=((0, 38),),
    )
    stale = ((20, 21), (22, 32), (38, 40))
    assert plan("dual", new_block, refresh="never") == block(stale)
    first = View(steps_in_block=0, num_steps=0, steps_since_refresh=0, cached=(), num_clean=0)
    assert plan("dual", first, refresh="never") == refresh()
    assert plan("dual", new_block, refresh="never", refresh_every=12) == refresh()


def test_drift_refreshes_beyond_the_budget_and_only_there() -> None:
    args = {"refresh": "drift", "drift_budget": 0.5}
    at_start = {"steps_in_block": 0, "steps_since_refresh": 3}
    assert plan("dual", View(**at_start, drift_since_refresh=0.5), **args) == block(BLOCK)
    assert plan("dual", View(**at_start, drift_since_refresh=0.51), **args) == refresh()
    assert CACHE_POLICIES.create("dual", args).needs_drift
    assert not CACHE_POLICIES.create("dual", {}).needs_drift


@pytest.mark.parametrize(
    ("window", "tail", "live"),
    [
        (4, True, ((0, 36), (39, 40))),
        (4, False, ((0, 36),)),
        (0, True, ((0, 32), (39, 40))),
        (7, True, ((0, 40),)),
        (8, False, ((0, 40),)),
        (1000, True, ((0, 40),)),
    ],
)
def test_a_suffix_window_keeps_true_positions_and_the_tail(
    window: int, tail: bool, live: RowRanges
) -> None:
    args = {"suffix_window": window, "suffix_tail": tail}
    start = View(steps_in_block=0)
    assert plan("none", start, **args) == (StepKind.BLOCK, live, (), live)
    for name in ("prefix", "dual", "vicinity", "delayed"):
        assert plan(name, start, **args) == refresh(live)
    assert plan("dual", View(), **args) == block(BLOCK, live)
    rest = tuple((max(24, start), stop) for start, stop in live if stop > 24)
    assert plan("prefix", View(), **args) == block(rest, live)


def test_a_suffix_window_counts_masks_and_never_hides_given_tokens() -> None:
    # Rows 34, 35 and 39 were given by the user.
    view = View(steps_in_block=0, masked=((24, 34), (36, 39)))
    args = {"suffix_window": 3, "suffix_tail": False}
    assert plan("dual", view, **args) == refresh(((0, 37), (39, 40)))


def test_vicinity_is_dual_without_looks_and_stays_on_the_canvas() -> None:
    for name, args in (("dual", {}), ("vicinity", {"look_back": 0, "look_ahead": 0})):
        assert plan(name, View(), **args) == block(BLOCK)
    assert plan("vicinity", View(), look_back=3, look_ahead=5) == block(((21, 37),))
    assert plan("vicinity", View(), look_back=99, look_ahead=99) == block(ALL)
    warming = View(num_steps=3, steps_in_block=3, steps_since_refresh=1)
    assert plan("vicinity", warming, warmup=4) == refresh()
    assert plan("vicinity", warming, warmup=3)[0] is StepKind.BLOCK


def test_delayed_computes_masks_and_the_tokens_of_the_last_step() -> None:
    view = View(
        steps_in_block=3, steps_since_refresh=3, masked=((26, 28), (30, 40)), scored=((26, 28),)
    )
    assert plan("delayed", view) == block(((26, 28), (30, 40)))
    dirty = View(
        steps_in_block=3,
        steps_since_refresh=3,
        masked=((26, 28), (30, 40)),
        dirty=((24, 25),),
        scored=((26, 28),),
    )
    assert plan("delayed", dirty) == block(((24, 25), (26, 28), (30, 40)))
    again = View(steps_in_block=3, steps_since_refresh=3, masked=((30, 40),), scored=((24, 32),))
    assert plan("delayed", again) == block(((24, 40),))
    # The first two steps of a block compute everything.
    assert plan("delayed", View(steps_in_block=1)) == refresh()
    assert plan("delayed", View(steps_in_block=1), warmup=1)[0] is StepKind.BLOCK


class TestBlockCausal:
    """Mask blocks of 8; the prompt of 19 rows ends inside one."""

    def plan(self, **changes: Any) -> Expected:
        view = {"mask_block": 8, "prompt_len": 19, "block_start": 19, "block_stop": 24}
        return plan("block_causal", View(**(view | {"num_rows": 24} | changes)))

    def test_the_first_step_computes_what_is_not_shared(self) -> None:
        first = {"steps_in_block": 0, "steps_since_refresh": 0, "num_steps": 0}
        for clean, start in ((0, 0), (8, 8), (16, 16)):
            expected = (StepKind.PREFILL, ((start, 24),), ((start, 24),), ((0, 24),))
            assert self.plan(**first, num_clean=clean) == expected

    def test_inside_a_block_its_whole_mask_block_is_computed(self) -> None:
        expected = block(((16, 24),), ((0, 24),))
        assert self.plan(num_clean=24) == expected
        assert self.plan(num_clean=21) == expected

    def test_the_block_before_is_committed_beside_the_first_step_of_the_next(self) -> None:
        after = {"block_start": 24, "block_stop": 32, "num_rows": 32, "steps_in_block": 0}
        expected = (StepKind.COMMIT, ((16, 32),), ((16, 32),), ((0, 32),))
        # One dirty row makes its block unfinished, and new rows are not cached.
        assert self.plan(**after, num_clean=21) == expected
        assert self.plan(**after, num_clean=16) == expected
        assert self.plan(**after, num_clean=24)[1] == ((24, 32),)

    def test_other_policies_compute_the_prompts_end_with_the_block(self) -> None:
        view = View(
            mask_block=8, prompt_len=19, block_start=19, block_stop=24, num_rows=24, num_clean=24
        )
        assert plan("dual", view)[1] == ((16, 24),)
        assert plan("prefix", view)[1] == ((16, 24),)
        assert plan("vicinity", view, look_back=2)[1] == ((14, 24),)


class TestDLLM:
    """A prompt of 16 rows and a response of 24."""

    PARTIAL = ((16, 40),)

    def plan(self, step: int, **args: Any) -> tuple[StepKind, RowRanges, RowRanges, int]:
        made = CACHE_POLICIES.create("dllm", args).plan(View(num_steps=step))
        assert (made.write, made.read, made.dirty_allowed) == (made.query, ALL, "")
        return made.kind, made.query, made.partial, made.num_chosen

    def test_prompt_and_response_are_refreshed_at_their_own_pace_whatever_the_block(self) -> None:
        steps = [self.plan(step, prompt_interval=3, response_interval=2) for step in range(7)]
        both = (StepKind.REFRESH, ALL, (), 0)
        response = (StepKind.REFRESH, self.PARTIAL, (), 0)
        prompt = (StepKind.REFRESH, ALL, self.PARTIAL, 6)
        neither = (StepKind.BLOCK, self.PARTIAL, self.PARTIAL, 6)
        assert steps == [both, neither, response, prompt, response, neither, both]

    def test_by_default_they_are_fifty_and_seven_steps(self) -> None:
        steps = [self.plan(step) for step in range(101)]
        assert [at for at, step in enumerate(steps) if step[1] == ALL] == [0, 50, 100]
        assert [at for at, step in enumerate(steps) if not step[2]] == list(range(0, 101, 7))

    @pytest.mark.parametrize(
        ("ratio", "num_chosen"), [(0.25, 6), (0.29, 6), (0.3, 7), (0.01, 1), (0.999, 23)]
    )
    def test_the_share_chosen_is_rounded_down_to_at_least_one_row(
        self, ratio: float, num_chosen: int
    ) -> None:
        assert self.plan(1, ratio=ratio)[3] == num_chosen

    def test_where_all_rows_would_be_chosen_none_is_computed_in_part(self) -> None:
        assert self.plan(1, ratio=1) == (StepKind.BLOCK, self.PARTIAL, (), 0)
        policy = CACHE_POLICIES.create("dllm", {})
        made = policy.plan(View(num_steps=1, prompt_len=39))
        assert (made.query, made.partial, made.num_chosen) == (((39, 40),), (), 0)

    def test_features_are_kept_only_if_a_step_may_need_them(self) -> None:
        for args, keeps in (({}, True), ({"ratio": 1}, False), ({"response_interval": 1}, False)):
            assert CACHE_POLICIES.create("dllm", args).keeps_features is keeps
        assert not CACHE_POLICIES.create("dual", {}).keeps_features

    def test_a_block_causal_model_is_pointed_to_its_exact_cache(self) -> None:
        policy = CACHE_POLICIES.create("dllm", {})
        assert policy.refusal(None) == ""
        assert "use cache='block_causal', which is exact" in policy.refusal(8)


@pytest.mark.parametrize(
    ("name", "args", "bidirectional", "block_causal"),
    [
        ("none", {}, "exact", "exact"),
        ("none", {"suffix_window": 8}, "approximate: suffix window", "exact"),
        ("dual", {}, "approximate: temporal reuse", "exact"),
        ("dual", {"refresh_every": 1}, "exact", "exact"),
        ("dual", {"refresh": "never"}, "approximate: temporal reuse",
         "approximate: temporal reuse"),
        ("prefix", {}, "approximate: temporal reuse", "exact"),
        ("vicinity", {"suffix_window": 8}, "approximate: temporal reuse, suffix window", "exact"),
        ("delayed", {}, "approximate: temporal reuse", "approximate: temporal reuse"),
        ("delayed", {"refresh_every": 1}, "exact", "exact"),
        ("block_causal", {}, "exact", "exact"),
        ("dllm", {}, "approximate: temporal reuse", "approximate: temporal reuse"),
        ("dllm", {"response_interval": 1}, "approximate: temporal reuse",
         "approximate: temporal reuse"),
        ("dllm", {"prompt_interval": 1}, "approximate: temporal reuse",
         "approximate: temporal reuse"),
        ("dllm", {"prompt_interval": 1, "response_interval": 1}, "exact", "exact"),
        ("dllm", {"prompt_interval": 1, "ratio": 1.0}, "exact", "exact"),
    ],
)  # fmt: skip
def test_labels_say_what_is_reused_under_the_models_own_attention(
    name: str, args: dict[str, Any], bidirectional: str, block_causal: str
) -> None:
    policy = CACHE_POLICIES.create(name, args)
    assert (policy.label(None), policy.label(8)) == (bidirectional, block_causal)


@pytest.mark.parametrize(
    ("name", "args", "problem"),
    [
        ("dual", {"refresh": "often"}, "refresh must be one of block, never, drift, got 'often'"),
        ("dual", {"refresh_every": 0}, "refresh_every must be an integer >= 1, got 0"),
        ("dual", {"refresh_every": True}, "refresh_every must be an integer"),
        ("dual", {"refresh": "drift"}, "go together"),
        ("dual", {"drift_budget": 0.1}, "go together"),
        ("dual", {"refresh": "drift", "drift_budget": 0}, "must be a finite number > 0"),
        ("dual", {"refresh": "drift", "drift_budget": float("nan")}, "must be a finite number"),
        ("none", {"suffix_window": -1}, "suffix_window must be an integer >= 0, got -1"),
        ("prefix", {"suffix_tail": 1}, "suffix_tail must be True or False, got 1"),
        ("vicinity", {"look_back": -1}, "look_back must be an integer >= 0"),
        ("vicinity", {"look_ahead": 1.5}, "look_ahead must be an integer >= 0"),
        ("vicinity", {"warmup": -1}, "warmup must be an integer >= 0"),
        ("delayed", {"warmup": "x"}, "warmup must be an integer >= 0"),
        ("block_causal", {"refresh_every": 2}, "no argument 'refresh_every'"),
        ("dllm", {"prompt_interval": 0}, "prompt_interval must be an integer >= 1, got 0"),
        ("dllm", {"response_interval": 2.0}, "response_interval must be an integer >= 1"),
        ("dllm", {"ratio": 0}, r"ratio must be a number in \(0, 1\], got 0"),
        ("dllm", {"ratio": 1.01}, "ratio must be a number"),
        ("dllm", {"ratio": float("nan")}, "ratio must be a number"),
        ("dllm", {"ratio": True}, "ratio must be a number"),
        ("dllm", {"ratio": "0.5"}, "ratio must be a number"),
        ("dllm", {"suffix_window": 8}, "no argument 'suffix_window'"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(
    name: str, args: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RequestError, match=problem):
        CACHE_POLICIES.create(name, args)


def test_only_policies_that_begin_blocks_anew_may_lose_their_pages() -> None:
    for name in ("prefix", "dual", "vicinity", "delayed"):
        assert CACHE_POLICIES.create(name, {}).resumable
        assert not CACHE_POLICIES.create(name, {"refresh": "never"}).resumable
    assert CACHE_POLICIES.create("block_causal", {}).resumable
    assert not CACHE_POLICIES.create("dllm", {}).resumable


class TestIsolatedPrompt:
    """The prompt's 16 rows see each other alone and are computed once."""

    ARGS: ClassVar[dict[str, Any]] = {"isolate_prompt": True}

    def plan(self, name: str, view: View, **args: Any) -> tuple[RowRanges, int]:
        made = CACHE_POLICIES.create(name, self.ARGS | args).plan(view)
        assert made.write == made.query
        assert made.read == ALL
        return made.query, made.isolated

    def test_prompt_rows_are_computed_until_they_are_cached(self) -> None:
        first = {"steps_in_block": 0, "steps_since_refresh": 0, "num_steps": 0}
        assert self.plan("dual", View(**first, cached=())) == (ALL, 16)
        assert self.plan("dual", View(**first, cached=((0, 8),))) == (((8, 40),), 16)
        assert self.plan("dual", View(steps_in_block=0)) == (((16, 40),), 16)

    def test_no_step_writes_them_again(self) -> None:
        assert self.plan("dual", View()) == (BLOCK, 16)
        assert self.plan("vicinity", View(), look_back=20) == (((16, 40),), 16)
        assert self.plan("prefix", View(), refresh_every=1) == (((16, 40),), 16)

    def test_it_is_labelled_and_refused_where_sharing_is_exact(self) -> None:
        policy = CACHE_POLICIES.create("dual", self.ARGS)
        assert policy.label(None) == "approximate: temporal reuse, isolated prompt"
        always = CACHE_POLICIES.create("dual", self.ARGS | {"refresh_every": 1})
        assert always.label(None) == "approximate: isolated prompt"
        assert "cache='block_causal' shares prompts exactly" in policy.refusal(8)
        assert not policy.refusal(None)
        with pytest.raises(RequestError, match="isolate_prompt must be True or False, got 1"):
            CACHE_POLICIES.create("dual", {"isolate_prompt": 1})
