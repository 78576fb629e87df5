"""Every attention backend against softmax written out in float64."""

from __future__ import annotations

import pytest
import torch

from starr_engine.attention.base import AttentionMetadata
from starr_engine.attention.select import make_backend
from starr_engine.errors import ConfigError
from tests.helpers.attention import Lengths, fresh, paged
from tests.helpers.attention_steps import STEPS, Step, shape
from tests.helpers.devices import DEVICES

OWN = ("reference", "sdpa")
"""Backends that serve every device that tests run on."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize(
    "page_seed", [None, 0, 3], ids=["pages in order", "shuffled", "shuffled 3"]
)
def test_every_request_attends_to_all_rows_it_reads_and_no_others(
    page_seed: int | None, lengths: list[Lengths], backend: str, device: str
) -> None:
    step = Step(lengths, shape(4, 4, 32, torch.float32, device), page_seed)
    torch.testing.assert_close(step.run(backend).double(), step.expected(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("head_dim", [32, 40, 64, 128])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(6, 6), (6, 2), (6, 1)])
def test_heads_of_every_size_and_grouping_are_right(
    num_heads: int, num_kv_heads: int, head_dim: int, backend: str, device: str
) -> None:
    step = Step(
        STEPS["fresh and paged mixed"] + STEPS["shadow rows among others"],
        shape(num_heads, num_kv_heads, head_dim, torch.float32, device),
    )
    torch.testing.assert_close(step.run(backend).double(), step.expected(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize(
    "name", ["fresh and paged mixed", "shadow rows among others", "block-causal, paged"]
)
def test_narrow_dtypes_are_at_most_twice_as_wrong_as_plain_torch(
    name: str, num_kv_heads: int, dtype: torch.dtype, device: str
) -> None:
    step = Step(STEPS[name], shape(4, num_kv_heads, 64, dtype, device))
    exact, plain = step.expected(), step.dense(dtype)
    bound = 2 * (plain.double() - exact).abs().max() + 1e-5 * exact.abs().max()

    out = step.run("sdpa")
    assert out.dtype == dtype
    assert (out.double() - exact).abs().max() <= bound


@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS.keys())
def test_a_request_gets_the_same_bits_alone_and_in_company(lengths: list[Lengths]) -> None:
    """Neighbours of equal length share a call; that must not show in the result."""
    step = Step(lengths, shape(4, 2, 32, torch.float32, "cpu"))
    together = step.run("sdpa")
    for index, (query_len, read_len, is_fresh) in enumerate(
        zip(step.metadata.query_lens, step.metadata.read_lens, step.metadata.fresh, strict=True)
    ):
        rows = slice(*step.metadata.cu_query[index : index + 2].tolist())
        reads = slice(*step.metadata.cu_read[index : index + 2].tolist())
        alone = AttentionMetadata(
            cu_query=torch.tensor([0, query_len], dtype=torch.int32),
            cu_read=torch.tensor([0, reads.stop - reads.start], dtype=torch.int32),
            read_slots=step.metadata.read_slots[reads],
            slot_mapping=step.metadata.slot_mapping[rows],
            page_table=step.metadata.page_table[index : index + 1],
            query_lens=(query_len,),
            read_lens=(read_len,),
            fresh=(is_fresh,),
            shadow_lens=step.metadata.shadow_lens[index : index + 1],
            shadow_columns=step.metadata.shadow_columns[index : index + 1],
            visible=step.metadata.visible[rows],
            limited=step.metadata.limited[index : index + 1],
            visible_runs=step.metadata.visible_runs[index : index + 1],
            reads_prefix=step.metadata.reads_prefix[index : index + 1],
        )
        out = (
            make_backend("sdpa", step.shape)
            .plan(alone)
            .attend(step.query[rows], step.key[rows], step.value[rows], step.k_cache, step.v_cache)
        )
        assert torch.equal(out, together[rows])


@pytest.mark.parametrize("backend", OWN)
def test_the_other_rows_get_the_same_bits_with_and_without_shadow_rows(backend: str) -> None:
    attention = shape(4, 2, 32, torch.float32, "cpu")
    with_shadow = Step([fresh(20, shadow=(12, 20)), paged(8, 32, shadow=(24, 32))], attention)
    without = Step([fresh(20), paged(8, 32)], attention)
    kept = torch.cat([torch.arange(20), torch.arange(28, 36)])
    for name in ("query", "key", "value"):
        setattr(without, name, getattr(with_shadow, name)[kept])
    without.k_cache, without.v_cache = with_shadow.k_cache, with_shadow.v_cache
    assert torch.equal(with_shadow.run(backend)[kept], without.run(backend))


def test_auto_takes_sdpa_on_the_cpu() -> None:
    assert make_backend("auto", shape(4, 4, 32, torch.float32, "cpu")).name == "sdpa"


def test_auto_falls_to_the_reference_where_nothing_else_serves() -> None:
    assert make_backend("auto", shape(4, 4, 32, torch.float32, "meta")).name == "reference"


def test_a_backend_that_cannot_serve_says_why() -> None:
    with pytest.raises(ConfigError, match=r"'sdpa' cannot serve.*device must be cpu or cuda"):
        make_backend("sdpa", shape(4, 4, 32, torch.float32, "meta"))


def test_an_unknown_backend_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="'sdpb'; did you mean 'sdpa'"):
        make_backend("sdpb", shape(4, 4, 32, torch.float32, "cpu"))
