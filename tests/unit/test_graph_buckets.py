"""Which bucket a step goes to, and where its rows lie there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from starr_engine import LLM
from starr_engine.attention.sequences import Sequences
from starr_engine.cli.main import main
from starr_engine.config import EngineConfig
from starr_engine.engine.graphs.buckets import BucketRule, default_counts
from starr_engine.engine.graphs.padding import fill_grid, grid_arrays
from starr_engine.engine.graphs.recording import Bucket
from starr_engine.engine.graphs.setup import obstacles
from starr_engine.engine.step_arrays import StepArrays, StepSizes
from starr_engine.errors import ConfigError
from starr_engine.models.loading.loader import build_model
from tests.helpers.fake_kernels import make_gpu_seem_there
from tests.helpers.llada2_checkpoints import sharp_llada2_checkpoint

CPU = torch.device("cpu")


def sequences(*lens: tuple[int, int], owners: tuple[int, ...] | None = None) -> Sequences:
    return Sequences(
        query_lens=tuple(rows for rows, _ in lens),
        key_lens=tuple(keys for _, keys in lens),
        owners=owners or tuple(range(len(lens))),
    )


def rule(*, copies_table: bool) -> BucketRule:
    return BucketRule(
        sequence_counts=(1, 2, 4, 8, 64), page_size=32, max_pages=24, copies_table=copies_table
    )


@pytest.mark.parametrize(
    ("lens", "in_place", "copied"),
    [
        ([(32, 544)], Bucket(1, 32, 24), Bucket(1, 32, 24)),
        ([(32, 96), (7, 33), (1, 1)], Bucket(4, 32, 24), Bucket(4, 32, 4)),
        ([(4, 32)] * 5, Bucket(8, 4, 24), Bucket(8, 4, 1)),
        ([(33, 65)], Bucket(1, 48, 24), Bucket(1, 48, 4)),
    ],
)
def test_sizes_are_rounded_up(
    lens: list[tuple[int, int]], in_place: Bucket, copied: Bucket
) -> None:
    assert rule(copies_table=False).fit(sequences(*lens)) == in_place
    assert rule(copies_table=True).fit(sequences(*lens)) == copied


@pytest.mark.parametrize(
    ("lens", "reason"),
    [
        ([(1, 1)] * 65, "more than 64 sequences"),
        ([(129, 129)], "a sequence of more than 128 rows"),
        ([(64, 64)] * 33, "more than 2048 rows with padding"),
        ([(128, 128), *[(2, 64)] * 6], "padding would more than double the rows"),
    ],
)
def test_what_no_bucket_holds_says_why(lens: list[tuple[int, int]], reason: str) -> None:
    assert rule(copies_table=False).fit(sequences(*lens)) == reason


def test_default_buckets_waste_at_most_half() -> None:
    assert default_counts(16, 1) == (1, 2, 4, 8, 16)
    assert default_counts(128, 1) == (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
    for most in range(1, 300):
        counts = default_counts(most, 2)
        assert counts[-1] >= 2 * most
        assert all(b <= 2 * a for a, b in pairwise(counts))


def test_rows_lie_line_by_line_and_padding_keeps_nothing() -> None:
    # Request 0 is two sequences (a block that is committed, and the next), request 1 one.
    step = StepArrays(StepSizes(5, 2, 0, 3, 2), CPU, num_facts=3)
    packed = step.packed
    packed.tail[:] = [71, 72, 73]
    packed.int64("input_ids")[:] = [11, 12, 13, 21, 22]
    packed.int64("positions")[:] = [4, 5, 6, 8, 9]
    packed.int64("slot_mapping")[:] = [104, 105, -1, 208, 209]
    packed.int64("logits_rows")[:] = [2, 4]
    packed.int32("page_table")[:] = [[7, 8, 9], [5, 6, 0]]
    bucket = Bucket(4, 4, 2)
    grid = grid_arrays(bucket, CPU, 3)
    fill_grid(grid, bucket, sequences((2, 6), (1, 7), (2, 10), owners=(0, 0, 1)), step, pad_id=1)
    assert grid.int64("input_ids").reshape(4, 4).tolist() == [
        [11, 12, 1, 1], [13, 1, 1, 1], [21, 22, 1, 1], [1, 1, 1, 1],
    ]  # fmt: skip
    assert grid.int64("positions").reshape(4, 4).tolist() == [
        [4, 5, 0, 0], [6, 0, 0, 0], [8, 9, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert grid.int64("slot_mapping").reshape(4, 4).tolist() == [
        [104, 105, -1, -1], [-1] * 4, [208, 209, -1, -1], [-1] * 4,
    ]  # fmt: skip
    assert grid.int64("logits_rows")[:2].tolist() == [4, 9]
    assert grid.int32("page_table").tolist() == [[7, 8], [7, 8], [5, 6], [0, 0]]
    assert grid.int32("key_lens").tolist() == [6, 7, 10, 1]
    assert grid.int32("cu_keys").tolist() == [0, 6, 13, 23, 24]
    assert grid.int32("cu_query").tolist() == [0, 4, 8, 12, 16]
    assert grid.tail_of(grid.upload()).tolist() == [71, 72, 73]


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 2), (4, 1), 8, ("1",), [2, 1]])
def test_buckets_are_checked(buckets: object) -> None:
    with pytest.raises(ConfigError, match="graph_buckets must be integers >= 1 in ascending"):
        EngineConfig(graph_buckets=buckets)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cuda_graphs must be auto or off"):
        EngineConfig(cuda_graphs="on")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "capability", "reason"),
    [
        (torch.float32, (9, 0), "the grouped product of the experts waits for the device"),
        (torch.bfloat16, (8, 0), "the grouped product of the experts waits for the device"),
        (torch.bfloat16, (9, 0), None),
    ],
)
def test_experts_are_recorded_where_their_product_does_not_wait(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    capability: tuple[int, int],
    reason: str | None,
) -> None:
    make_gpu_seem_there(monkeypatch, capability)
    model = build_model(sharp_llada2_checkpoint(tmp_path))
    found = obstacles(model, device=torch.device("cuda"), dtype=dtype)
    assert len(found) == (reason is not None)
    assert all(each.startswith(reason or "") for each in found)


def test_a_backend_that_cannot_be_recorded_is_an_obstacle() -> None:
    engine = LLM("tiny-sdar", device="cpu", attention_backend="reference").engine
    found = obstacles(engine.executor.model, engine.executor.backends, device=CPU)
    assert found == ["attention backend 'reference' cannot be recorded"]


def test_info_says_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--model", "tiny-sdar"])
    assert "CUDA graphs:\n  recorded: no: device must be cuda, got cpu" in capsys.readouterr().out
