"""Who has what of a split model, and what an engine refuses to split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.config import EngineConfig
from starr_engine.engine.loading import load
from starr_engine.engine.rank_limits import check_ranks
from starr_engine.errors import ConfigError
from starr_engine.layers.ranks import Ranks
from starr_engine.models.loading.loader import build_model
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.rank_threads import as_ranks


@given(size=st.integers(0, 300), count=st.integers(1, 9))
def test_shares_are_neighbours_and_cover_everything(size: int, count: int) -> None:
    shares = [Ranks(rank=rank, count=count).share(size) for rank in range(count)]
    assert [thing for start, stop in shares for thing in range(start, stop)] == list(range(size))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


@given(num_kv_heads=st.integers(1, 8), per_rank=st.integers(1, 4), copies=st.integers(1, 4))
def test_a_rank_has_the_key_value_heads_that_its_queries_read(
    num_kv_heads: int, per_rank: int, copies: int
) -> None:
    for count in {num_kv_heads * copies, *(n for n in range(1, 9) if num_kv_heads % n == 0)}:
        num_heads = num_kv_heads * copies * per_rank
        group = num_heads // num_kv_heads
        for rank in range(count):
            ranks = Ranks(rank=rank, count=count)
            queries, heads = range(*ranks.heads(num_heads)), range(*ranks.heads(num_kv_heads))
            # As attention pairs them up, which knows nothing of the whole model.
            paired = [heads[at * len(heads) // len(queries)] for at in range(len(queries))]
            assert paired == [query // group for query in queries]


@pytest.mark.parametrize("size", [2, 6, 7])
def test_columns_come_together_in_order(size: int) -> None:
    whole = torch.arange(3.0 * size).view(3, size)

    def join(ranks: Ranks) -> list[torch.Tensor]:
        columns = whole[:, slice(*ranks.share(size))]
        return [ranks.join_columns(part, size) for part in (columns, columns[:0], whole)]

    joined = as_ranks(3, join)[0]
    for got, expected in zip(joined, (whole, whole[:0], whole), strict=True):
        assert torch.equal(got, expected)


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    spec = build_model(resolve_model("tiny-llada")).spec
    check_ranks(spec, torch.device("cpu"), 6)
    with pytest.raises(ConfigError, match="takes one GPU for each rank, and torch sees 1"):
        check_ranks(spec, torch.device("cuda"), 2)
    with pytest.raises(ConfigError, match=r"is one GPU, .* use device='cuda'"):
        check_ranks(spec, torch.device("cuda", 0), 2)


def test_a_model_that_cannot_be_split_starts_no_rank() -> None:
    def start(count: int, device: torch.device) -> None:
        raise AssertionError

    config = EngineConfig(model="tiny-llada", device="cpu", tensor_parallel_size=5)
    with pytest.raises(ConfigError, match="cannot share 6 query heads evenly"):
        load(config, start)  # type: ignore[arg-type]
