"""Probes: they change nothing, find nothing where a cache is exact, and measure what is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.engine.step_batch import StepBatch
from tests.helpers.engines import Reference, as_prompts, make_llm, random_prompts
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint

KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("low_confidence", "dual", {}),
    ("threshold", "none", {}),
    ("starr", "vicinity", {"look_back": 2, "look_ahead": 3}),
    ("wino", "dual", {"refresh": "never"}),
    ("low_confidence", "prefix", {"suffix_window": 2}),
    ("threshold", "delayed", {}),
    ("wino", "none", {}),
    ("low_confidence", "dual", {"refresh": "drift", "drift_budget": 0.2}),
]


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    """Remembers no canvas, so that a request computes the same rows each time it is asked."""
    return make_llm(folder, canvas_cache=0)


def asked(kind: int, rate: float, **changes: Any) -> SamplingParams:
    remasking, cache, args = KINDS[kind % len(KINDS)]
    return SamplingParams(
        **{
            "max_tokens": 16,
            "block_length": 8,
            "remasking": remasking,
            "cache": cache,
            "cache_args": args,
            "seed": kind,
            "temperature": 0.5 if kind % 3 == 2 else 0.0,
            "ignore_eos": True,
            "cache_probe_rate": rate,
        }
        | changes
    )


def told(output: RequestOutput) -> tuple[object, ...]:
    """All that a probe must not change."""
    return (
        output.token_ids, output.nfe, output.num_unmasked, output.computed_rows,
        output.num_refreshes, output.mean_log_confidence, output.cache_label,
    )  # fmt: skip


def test_probes_change_nothing_alone_and_in_a_mixed_batch(folder: Path) -> None:
    llm = make_llm(folder, canvas_cache=0)  # what it saves would show in the rows computed
    prompts = as_prompts(random_prompts(len(KINDS), seed=1))
    numbers = range(len(KINDS))
    plain = llm.generate(prompts, [asked(kind, 0.0) for kind in numbers])
    assert all(output.drift is None for output in plain)
    probed = llm.generate(prompts, [asked(kind, 0.4) for kind in numbers])
    assert [told(output) for output in probed] == [told(output) for output in plain]
    for kind, prompt, together in zip(numbers, prompts, probed, strict=True):
        [alone] = llm.generate([prompt], asked(kind, 0.4))
        # The sixth is a float, which rounds otherwise in a batch of another size.
        assert told(alone)[:5] == told(together)[:5]
        assert alone.drift is not None
        assert together.drift is not None
        # The same steps are probed, whatever shares the batch.
        assert alone.drift.probe_forwards == together.drift.probe_forwards
        assert alone.drift.rows_compared == together.drift.rows_compared
    [last] = llm.generate([prompts[0]], asked(0, 1.0))
    assert last.drift is not None
    assert (last.drift.probe_forwards, last.nfe) == (16, 16)
    assert last.drift.rows_compared == 2 * sum(range(9))


@pytest.mark.parametrize(
    ("cache", "args"), [("none", {}), ("dual", {"refresh_every": 1}), ("vicinity", {"warmup": 99})]
)
def test_a_cache_that_reuses_nothing_shows_no_error(
    llm: LLM, cache: str, args: dict[str, Any]
) -> None:
    outputs = llm.generate(
        as_prompts(random_prompts(3, seed=2)), asked(0, 1.0, cache=cache, cache_args=args)
    )
    for output in outputs:
        assert output.drift is not None
        assert (output.drift.probe_forwards, output.drift.flip_rate) == (16, 0.0)
        assert output.drift.max_kl < 1e-8
        assert output.drift.max_confidence_error < 1e-5


def test_the_exact_cache_of_a_block_causal_model_shows_no_error(tmp_path: Path) -> None:
    config = sdar_config(max_position_embeddings=128)
    llm = make_llm(write_sdar_checkpoint(tmp_path, config, sdar_tensors(config, seed=1)))
    params = asked(0, 1.0, cache="block_causal", cache_args={}, block_length=8, max_tokens=19)
    for output in llm.generate(as_prompts([[5] * 9, [6] * 16, [7] * 3]), params):
        assert output.drift is not None
        assert (output.drift.probe_forwards, output.drift.flip_rate) == (19, 0.0)
        assert output.drift.max_kl < 1e-8


def test_reuse_and_a_hidden_suffix_show(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(3, seed=3))
    for cache, args in [
        ("dual", {}),
        ("dual", {"refresh": "never"}),
        ("none", {"suffix_window": 0}),
    ]:
        for output in llm.generate(prompts, asked(0, 1.0, cache=cache, cache_args=args)):
            assert output.drift is not None
            assert output.drift.max_kl > output.drift.mean_kl > 1e-6
            assert output.drift.max_confidence_error > output.drift.mean_confidence_error > 0


@pytest.mark.parametrize("kind", [0, 3, 4])
def test_the_numbers_are_those_of_a_dense_forward_in_float64(
    llm: LLM, reference: Reference, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    forward = llm.engine.executor.forward
    mask = reference.config["mask_token_id"]
    found: list[list[float]] = []

    def keep(batch: StepBatch) -> Tensor:
        canvas = batch.entries[0].running.request.canvas
        [positions] = batch.score_positions
        dense = reference.model.logits(canvas.token_ids.tolist())[positions]
        logits = forward(batch)
        for full, cached in zip(dense, logits.double().numpy(), strict=False):
            full[mask] = cached[mask] = -np.inf
            p, q = (torch.from_numpy(row).softmax(-1).numpy() for row in (full, cached))
            chance = p > 0
            kl = (p[chance] * np.log(p[chance] / q[chance])).sum()
            found.append([kl, p.argmax() != q.argmax(), abs(p.max() - q.max())])
        return logits.clone()

    monkeypatch.setattr(llm.engine.executor, "forward", keep)
    [output] = llm.generate(as_prompts([[5, 9, 6, 40]]), asked(kind, 1.0, temperature=0.0))
    errors, drift = np.array(found), output.drift
    assert drift is not None
    assert drift.rows_compared == len(errors)
    assert drift.flip_rate == errors[:, 1].mean()
    got = [drift.mean_kl, drift.max_kl, drift.mean_confidence_error, drift.max_confidence_error]
    expected = [errors[:, 0].mean(), errors[:, 0].max(), errors[:, 2].mean(), errors[:, 2].max()]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
    assert drift.max_kl > 1e-5


def test_probes_keep_to_the_row_budget(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_llm(folder, max_num_batched_tokens=50, max_num_requests=8, canvas_cache=0)
    run = llm.engine.executor._run
    sizes: list[int] = []

    def look(batch: StepBatch) -> Any:
        sizes.append(len(batch.input_ids))
        return run(batch)

    monkeypatch.setattr(llm.engine.executor, "_run", look)
    prompts = as_prompts([[5 + at] * 6 for at in range(6)])  # canvases of 22 rows: two in a forward
    params = [asked(0, 1.0, seed=seed, cache_args={}) for seed in range(6)]
    outputs = llm.generate(prompts, params)
    assert max(sizes) <= 50
    # Blocks of 8 rows: all six share a step, and need three forwards to be probed.
    assert sizes.count(44) >= 3 * 6
    assert [output.drift.probe_forwards for output in outputs if output.drift] == [16] * 6
