"""Any step, split for kernels that know ragged sequences alone, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.attention.base import ATTENTION_BACKENDS
from starr_engine.attention.reference import ReferenceAttention
from starr_engine.attention.sequences import sequences_of, sort_requests
from tests.helpers.attention import Lengths, causal, fresh, gapped, make_metadata, paged
from tests.helpers.attention_steps import Step, shape
from tests.helpers.fake_kernels import fake_package

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")


@st.composite
def requests(draw: st.DrawFn) -> Lengths:
    length = draw(st.integers(1, 24))
    shadow = draw(st.none() | st.tuples(st.integers(0, length - 1), st.just(length)))
    block = draw(st.sampled_from([0, 0, 2, 5]))
    if draw(st.booleans()):
        made = fresh(length, shadow=shadow)
    else:
        made = paged(draw(st.integers(0, length)), length, shadow=shadow)
        made = gapped(made, draw(st.sampled_from([0, 0, 0, 7])))
    return causal(made, block) if block else made


STEPS = st.lists(requests(), min_size=1, max_size=5).filter(
    lambda step: any(request.query_len for request in step)
)


@given(step=STEPS, reads_pages=st.booleans())
def test_every_request_with_rows_is_in_one_part_and_every_row_in_one_sequence(
    step: list[Lengths], reads_pages: bool
) -> None:
    metadata, _ = make_metadata(step)
    parts = sort_requests(metadata, reads_pages=reads_pages)
    everywhere = [*parts.paged, *parts.gathered, *parts.fresh, *parts.masked]
    assert sorted(everywhere) == [n for n, request in enumerate(step) if request.query_len]
    assert reads_pages or not parts.paged
    for part in (parts.paged, parts.gathered, parts.fresh):
        if not part:
            continue
        sequences = sequences_of(metadata, part)
        seen = [
            (owner, count)
            for owner, rows, count in zip(
                sequences.owners, sequences.query_lens, sequences.key_lens, strict=True
            )
            for _ in range(rows)
        ]
        assert seen == [(owner, count) for owner in part for count in step[owner].visible]
        assert not any(step[owner].shadow_len for owner in part)
        if sequences.bounds is not None:
            expected = sequences.cumulative().tolist()
            assert [bounds.tolist() for bounds in sequences.bounds] == expected
            assert part == tuple(range(len(step)))


@pytest.mark.parametrize("backend", KERNELS)
@settings(max_examples=25)
@given(step=STEPS, page_size=st.sampled_from([4, 256]), seed=st.integers(0, 3))
def test_any_step_is_computed_as_the_reference_does(
    backend: str, step: list[Lengths], page_size: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake_package(backend, patch)
        made = Step(step, shape(2, 1, 64, torch.float32, "cpu", page_size), seed)
        out = made.run_on(ATTENTION_BACKENDS.get(backend)(made.shape))
    expected = made.run_on(ReferenceAttention(made.shape))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
