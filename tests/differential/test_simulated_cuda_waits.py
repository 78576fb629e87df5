"""What the host waits for in a step on CUDA, and what it uploads, on a device that is simulated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from starr_engine.config import EngineConfig
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.engine import ahead as ahead_of
from starr_engine.engine.engine import Engine
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.engines import assert_all_pages_free, random_prompts, sharp_checkpoint
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint
from tests.helpers.simulated_cuda import Kind, SimulatedCuda
from tests.helpers.simulated_cuda.steps import Turn, run_requests

UPLOADS_PER_STEP = 1
"""The step's layout, and behind it the facts of its blocks."""

WAITS_FOR = "decoding/transfer.py:wait Event.synchronize"

UPLOADS_MORE: dict[str, str] = {
    "ancestral": "its times, laid out on the host",
    "maskgit_plus": "its times, laid out on the host",
    "wino": "where each request's shadow rows stand",
    "dllm": "which rows keep what layers add to them",
    "repetition_penalty": "which tokens stand where",
    "logit_bias": "tokens and biases",
    "allowed_token_ids": "tokens",
    "eos_last": "tokens",
}
"""What needs more than facts, and what that is."""

ARGS: dict[str, dict[str, Any]] = {"entropy_bound": {"max_steps": 6}}
"""Where a block would take many steps."""

Change = dict[str, Any]
NAMES = [name for name in REMASKING_POLICIES.names() if name not in UPLOADS_MORE]
POLICIES: list[Change] = [
    {"remasking": name, "remasking_args": ARGS.get(name, {})} for name in NAMES
]
PLAIN: list[list[Change]] = [
    *(POLICIES[at : at + 3] for at in range(0, len(POLICIES), 3)),
    [{"remasking": "starr", "remasking_args": {"patience": 2, "revoke_below": 0.3}}] * 3,
    [{"early_exit": "sched"}, {"cache": "none"}, {"cache": "prefix"}],
    [
        {"cache": "vicinity", "cache_args": {"look_back": 3, "look_ahead": 5}},
        {"cache": "delayed", "cache_args": {"warmup": 4}},
        {"cache": "dual", "cache_args": {"refresh_every": 3}},
    ],
    [{"cache": "dual", "cache_args": {"suffix_window": 8}}] * 3,
    [{}, {"temperature": 0.7}, {"temperature": 0.7, "top_p": 0.8, "top_k": 7, "min_p": 0.05}],
    *([{"remasking": name}] * 3 for name in ("ancestral", "maskgit_plus", "wino")),
    [{"cache": "dllm"}] * 3,
    [{"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25}] * 3,
    [
        {"logit_bias": {7: 3.0}, "min_tokens": 5, "stop_token_ids": (5, 6, 7)},
        {"allowed_token_ids": tuple(range(20, 40))},
        {},
    ],
    [{"eos_last": True, "stop_token_ids": tuple(range(4, 60))}] * 3,
]
"""Requests of one batch, launched without a wait."""

LATE: list[tuple[Change, str]] = [
    ({"trace": True}, "decoding/tracing.py"),
    ({"cache": "dual", "cache_probe_rate": 1.0}, "engine/executor.py:_observe"),
    (
        {"cache": "dual", "cache_args": {"refresh": "drift", "drift_budget": 0.1}},
        "engine/executor.py:_observe",
    ),
]
"""Launched with waits, and where these are."""


class Pair(NamedTuple):
    """Engines over one checkpoint."""

    cuda: Engine
    cpu: Engine


@pytest.fixture(scope="module")
def bidirectional(
    tmp_path_factory: pytest.TempPathFactory, simulated_device: SimulatedCuda
) -> Pair:
    return make_pair(sharp_checkpoint(tmp_path_factory.mktemp("sharp")))


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory, simulated_device: SimulatedCuda) -> Pair:
    return make_pair(sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"), seed=0, block_size=8))


@pytest.fixture(autouse=True)
def eager_to_go_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_of, "MOST_LEFT_OUT", 0.5)


def make_pair(folder: Path) -> Pair:
    fields: dict[str, Any] = {"model": str(folder), "dtype": "float32", "canvas_cache": 0}
    return Pair(*(Engine(EngineConfig(**fields, device=device)) for device in ("cuda", "cpu")))


def turns_of(pair: Pair, changes: list[Change], device: SimulatedCuda) -> list[Turn]:
    """Of such requests, once all graphs that they need are recorded; they end as on the CPU."""
    fields = {"max_tokens": 8, "block_length": 8, "ignore_eos": True}
    kinds = [fields | change | {"seed": n} for n, change in enumerate(changes)]
    prompts = random_prompts(len(changes), seed=2)
    _, expected = run_requests(pair.cpu, prompts, kinds, device)
    for _ in range(3):
        turns, outputs = run_requests(pair.cuda, prompts, kinds, device)
        if not any("graph" in event.name for turn in turns for event in turn.launch.events):
            break
    for name, output in outputs.items():
        known = expected[name]
        assert output.error is None
        assert (output.token_ids, output.nfe) == (known.token_ids, known.nfe)
        assert output.computed_rows == known.computed_rows
    assert_all_pages_free(pair.cuda)
    return turns


def assert_waits_once(turns: list[Turn]) -> None:
    """For the step that was launched first, and not for the one behind it."""
    for turn in turns:
        assert turn.launch.places(Kind.WAIT) == Counter()
        waits = turn.finish.of(Kind.WAIT)
        # After a step that no request wanted, there is nothing new to wait for.
        assert len(waits) == turn.has_finished
        assert turn.finish.places(Kind.WAIT) <= Counter({WAITS_FOR: 1})
        assert all((wait.behind > 0) == turn.is_ahead for wait in waits)


@pytest.mark.parametrize("kinds", PLAIN, ids=lambda kinds: " ".join(map(str, kinds))[:60])
def test_a_launch_waits_for_nothing_and_a_finish_once(
    bidirectional: Pair, kinds: list[Change], simulated_device: SimulatedCuda
) -> None:
    turns = turns_of(bidirectional, kinds, simulated_device)
    assert_waits_once(turns)
    num_steps = sum(turn.num_launched for turn in turns)
    num_uploads = sum(len(turn.launch.of(Kind.UPLOAD)) for turn in turns)
    asked = {word for kind in kinds for word in (*kind, kind.get("remasking"), kind.get("cache"))}
    if UPLOADS_MORE.keys() & asked:
        assert num_uploads > UPLOADS_PER_STEP * num_steps
    else:
        assert num_uploads == UPLOADS_PER_STEP * num_steps
    assert not any(turn.finish.of(Kind.UPLOAD) for turn in turns)


@pytest.mark.parametrize("name", ["starr", "low_confidence", "threshold"])
def test_a_block_causal_model_waits_once_too(
    block_causal: Pair, name: str, simulated_device: SimulatedCuda
) -> None:
    turns = turns_of(block_causal, [{"remasking": name}] * 3, simulated_device)
    assert_waits_once(turns)
    assert any(turn.is_ahead for turn in turns)
    num_steps = sum(turn.num_launched for turn in turns)
    assert sum(len(turn.launch.of(Kind.UPLOAD)) for turn in turns) == UPLOADS_PER_STEP * num_steps


@pytest.mark.parametrize("kind", [{}, {"cache": "none"}, {"remasking": "margin"}], ids=str)
def test_nearly_every_step_in_a_block_is_waited_for_a_step_late(
    bidirectional: Pair, kind: Change, simulated_device: SimulatedCuda
) -> None:
    turns = turns_of(bidirectional, [kind | {"max_tokens": 16}] * 3, simulated_device)
    assert sum(turn.is_ahead for turn in turns) >= len(turns) / 2


@pytest.mark.parametrize(("kind", "where"), LATE, ids=str)
def test_what_is_decided_or_looked_at_step_by_step_waits_in_the_launch(
    bidirectional: Pair, kind: Change, where: str, simulated_device: SimulatedCuda
) -> None:
    turns = turns_of(bidirectional, [kind] * 3, simulated_device)
    waits = sum((turn.launch.places(Kind.WAIT) for turn in turns), Counter())
    assert waits
    assert all(each.startswith(where) for each in waits)


def test_log_probabilities_are_one_more_wait_for_each_request(
    bidirectional: Pair, simulated_device: SimulatedCuda
) -> None:
    for turn in turns_of(bidirectional, [{"logprobs": 2}] * 3, simulated_device):
        assert turn.launch.places(Kind.WAIT) == Counter()
        assert len(turn.finish.of(Kind.WAIT)) <= 1 + 3


def test_bad_words_are_looked_for_by_the_host_in_the_launch(
    simulated_device: SimulatedCuda,
) -> None:
    pair = make_pair(resolve_model("tiny-llada"))
    tokenizer = pair.cuda.tokenizer
    assert tokenizer is not None
    prompt = tokenizer.encode("1 + 2 = ")
    params = {"max_tokens": 8, "block_length": 8, "bad_words": ("1 2 3",), "cache": "dual"}
    run_requests(pair.cuda, [prompt], [params], simulated_device)  # its graphs are recorded
    turns, outputs = run_requests(pair.cuda, [prompt], [params], simulated_device)
    _, expected = run_requests(pair.cpu, [prompt], [params], simulated_device)
    assert outputs["0"].token_ids == expected["0"].token_ids
    waits = sum((turn.launch.places(Kind.WAIT) for turn in turns), Counter())
    assert waits
    assert {each.split(":")[0] for each in waits} == {"decoding/group.py"}, waits
