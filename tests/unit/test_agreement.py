"""Agreement of an output with one token per step, worked out by hand."""

from __future__ import annotations

import pytest

from starr_engine.study.agreement import equal_share, is_identical
from starr_engine.study.calibration.outcomes import Outcome, summarize


@pytest.mark.parametrize(
    ("output", "reference", "share"),
    [
        ((1, 2, 3), (1, 2, 3), 1.0),
        ((1, 9, 3), (1, 2, 3), 2 / 3),
        ((1, 2), (1, 2, 3, 4), 0.5),  # missing tokens are unequal
        ((1, 2, 3, 4), (1, 2), 0.5),  # so are extra ones
        ((), (), 1.0),
        ((), (1,), 0.0),
        ((2, 1), (1, 2), 0.0),
    ],
)
def test_the_equal_share_is_counted_over_the_longer_output(output, reference, share):
    assert equal_share(output, reference) == pytest.approx(share)
    assert is_identical(output, reference) == (share == 1.0)


def test_a_list_and_a_tuple_of_equal_ids_are_identical():
    assert is_identical([1, 2], (1, 2))


def outcome(nfe: int, *, same: bool, share: float, solved: bool | None = None) -> Outcome:
    return Outcome(nfe=nfe, num_unmasked=32, is_identical=same, equal_share=share, is_solved=solved)


def test_a_summary_holds_the_means_and_their_intervals():
    summary = summarize(
        [
            outcome(4, same=True, share=1.0, solved=True),
            outcome(8, same=False, share=0.5, solved=True),
        ]
    )
    assert (summary.num_prompts, summary.nfe, summary.tpf) == (2, 6.0, 64 / 12)
    assert (summary.agreement, summary.token_agreement, summary.accuracy) == (0.5, 0.75, 1.0)
    assert [summary.level(measure) for measure in ("prompts", "tokens", "accuracy")] == [
        0.5, 0.75, 1.0,
    ]  # fmt: skip
    low, high = summary.agreement_interval
    assert 0.0 < low < 0.5 < high < 1.0


def test_an_accuracy_is_stated_only_if_every_prompt_was_scored():
    some = [
        outcome(4, same=True, share=1.0, solved=True),
        outcome(8, same=False, share=0.5),
    ]
    assert summarize(some).accuracy is None
    assert summarize(some).accuracy_interval is None
