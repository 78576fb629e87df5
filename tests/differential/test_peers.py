"""The engine and the published procedures that stand beside it in a benchmark: the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.peers import __main__ as command
from benchmarks.peers import llada
from benchmarks.peers.asked import Asked, Prompt, Run, System
from benchmarks.peers.compare import check, compare
from benchmarks.peers.dense import DenseForward
from benchmarks.peers.originals import OriginalError, block_causal_decode, load_original
from benchmarks.peers.running import run_peer
from benchmarks.peers.systems import Originals, systems_of
from benchmarks.peers.transformers_loop import TransformersForward
from benchmarks.peers.workload import Workload, random_workload, task_workload
from starr_engine.engine.engine import Engine
from starr_engine.errors import ConfigError
from starr_engine.models.loading.loader import load_model
from tests.helpers.dream_checkpoints import dream_config, write_dream_checkpoint
from tests.helpers.engines import make_llm, sharp_checkpoint
from tests.helpers.fake_originals import write_originals
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint
from tools.peer_table import peers

CPU = torch.device("cpu")


class Setup:
    """An engine, the forwards of its peers, and prompts of several lengths."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = make_llm(
            folder, max_num_requests=3, canvas_cache=0, prefix_caching=False
        ).engine
        spec = self.engine.spec
        self.dense = DenseForward(load_model(folder, CPU, torch.float32))
        self.hf = TransformersForward(
            folder, CPU, torch.float32, mask_block=spec.block_length, mask=spec.mask_token_id
        )
        self.workload = random_workload(spec, 3, (3, 21), 64, 2, seed=0)

    def asked(self, threshold: float | None, *, early_stop: bool) -> Asked:
        # At a pace above 1, SDAR's loop takes as many masks even if none is sure.
        return replace(
            self.workload.asked,
            threshold=threshold,
            tokens_per_step=2 if threshold is None else 1,
            eos=self.engine.spec.eos_token_ids if early_stop else (),
            early_stop=early_stop,
        )

    def systems(self, asked: Asked, originals: Originals | None = None) -> list[System]:
        return systems_of(self.engine, self.dense, self.hf, asked, [1, 2], originals or {})


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(sharp_checkpoint(tmp_path_factory.mktemp("llada")))


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar")))


def all_equal(systems: Sequence[System], workload: Workload) -> tuple[set[str], dict[str, Run]]:
    """Names of the systems that were compared, and what all gave."""
    runs = {each.name: each.run(workload.prompts) for each in systems}
    pairs = check(systems, runs)
    assert [pair for pair in pairs if pair.differing] == []
    return {pair.system for pair in pairs}, runs


def test_peers_and_originals_give_the_engines_tokens(bidirectional: Setup, tmp_path: Path) -> None:
    paths = write_originals(tmp_path)
    originals = {name: load_original(name, paths[name]) for name in ("llada", "fast_dllm")}
    systems = bidirectional.systems(bidirectional.asked(0.5, early_stop=True), originals)
    compared, _ = all_equal(systems, bidirectional.workload)
    ways = [
        f"{name}{how}, batch 1"
        for name in ("llada", "fast_dllm prefix", "fast_dllm dual")
        for how in ("", ", as published", ", original")
    ]
    assert compared >= {*ways, "transformers_loop, batch 1", "llada, batch 2"}


@pytest.mark.parametrize(("threshold", "early_stop"), [(0.5, True), (None, False)])
def test_block_causal_peers_give_the_engines_tokens(
    block_causal: Setup, threshold: float | None, early_stop: bool
) -> None:
    systems = block_causal.systems(block_causal.asked(threshold, early_stop=early_stop))
    compared, _ = all_equal(systems, block_causal.workload)
    assert compared >= {"transformers_loop, batch 1", "sdar, batch 1"}


def test_at_a_fixed_pace_peers_make_the_engines_forwards(bidirectional: Setup) -> None:
    systems = bidirectional.systems(bidirectional.asked(None, early_stop=False))
    _, runs = all_equal(systems, bidirectional.workload)
    engine = runs["engine, none, low_confidence, 2 per step, batch 1"]
    for name in ("transformers_loop, batch 1", "llada, batch 1"):
        assert [(each.nfe, each.rows) for each in runs[name].outputs] == [
            (each.nfe, each.rows) for each in engine.outputs
        ]
    dual = runs["fast_dllm dual, batch 1"]
    assert [(each.nfe, each.rows) for each in dual.outputs] == [
        (each.nfe, each.rows)
        for each in runs["engine, dual, low_confidence, 2 per step, batch 1"].outputs
    ]
    padded = runs["llada, batch 2"]
    longest = max(len(prompt.token_ids) for prompt in bidirectional.workload.prompts[:2])
    assert padded.outputs[0].rows == 32 * (longest + 64)
    assert padded.forwards == 2 * 32


def test_times_of_systems_that_differ_are_withheld(bidirectional: Setup) -> None:
    asked = bidirectional.asked(None, early_stop=False)

    def wrong(together: Sequence[Prompt]) -> Run:
        run = good.run(together)
        outputs = list(run.outputs)
        outputs[1] = replace(outputs[1], token_ids=outputs[1].token_ids[:-1])
        return replace(run, outputs=tuple(outputs))

    good = System(
        name="good", side="peer", procedure="", batch=1,
        run=lambda given: run_peer(
            bidirectional.dense, partial(llada.generate, bidirectional.dense), given, asked, 1
        ),
    )  # fmt: skip
    bad = replace(good, name="bad", equal_to="good", run=wrong)
    other = replace(good, name="other")
    found = compare([good, bad, other], bidirectional.workload, repeats=2)
    assert [row["withheld"] for row in found["rows"]] == [True, True, False]
    assert found["rows"][1]["tokens_per_s"] is found["rows"][1]["samples_s"] is None
    assert len(found["rows"][2]["samples_s"]) == 2
    assert found["pairs"] == [
        {"system": "bad", "equal_to": "good", "rows": 3, "differing": [1], "speed_ratio": None}
    ]


TINY = (
    *("--model", "random", "--tiny", "--random-prompts", "2", "--random-lengths", "4", "9"),
    *("--random-tokens", "32", "--random-pace", "16", "--random-batches", "1", "2"),
    *("--random-repeats", "2"),
)


def test_the_command_says_by_its_exit_code_whether_all_were_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "peers.json"
    assert command.main([*TINY, "--output", str(output)]) == 0
    [model] = json.loads(output.read_text())["models"]
    assert all(not row["withheld"] and row["tokens"] == 64 for row in model["rows"])
    right = llada.generate
    monkeypatch.setattr(llada, "generate", lambda *given: [row[::-1] for row in right(*given)])
    assert command.main([*TINY, "--output", str(output)]) == 1
    [model] = json.loads(output.read_text())["models"]
    withheld = {row["name"] for row in model["rows"] if row["withheld"]}
    assert {"llada, batch 1", "llada, batch 2"} < withheld
    assert "fast_dllm dual, batch 1" not in withheld
    assert peers(json.loads(output.read_text())).count("withheld: 2 of 2 outputs differ") == 2


def test_a_block_causal_original_fills_its_own_cache(block_causal: Setup, tmp_path: Path) -> None:
    functions = load_original("sdar", write_originals(tmp_path)["sdar"])
    asked = block_causal.asked(0.5, early_stop=True)
    systems = {each.name: each for each in block_causal.systems(asked, {"sdar": functions})}
    assert systems["sdar, original, batch 1"].equal_to is None
    decode = block_causal_decode(functions["block_diffusion_generate"], block_causal.dense)
    prompts = block_causal.workload.prompts
    found = run_peer(block_causal.dense, decode, prompts, asked, 1)
    expected = systems["sdar, batch 1"].run(prompts)
    assert [each.token_ids for each in found.outputs] == [
        each.token_ids for each in expected.outputs
    ]


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("other", lambda _: None, "no original is called 'other'; known are llada, fast_dllm"),
        ("llada", lambda _: None, "holds none of generate.py; give the folder of github.com"),
        ("llada", lambda f: f.write_text("x = 1"), "no function generate; --original llada expect"),
        ("sdar", lambda f: f.write_text("import not_there_"), "No module named 'not_there_'; inst"),
    ],
)
def test_what_is_no_original_is_refused(
    tmp_path: Path, name: str, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path / "generate.py")
    with pytest.raises(OriginalError, match=message):
        load_original(name, tmp_path)


def test_an_original_of_another_interface_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "generate.py"
    path.write_text("def generate(model): ...")
    assert command.main([*TINY, "--original", f"llada={path}"]) == 2
    assert "the original generate failed: TypeError" in capsys.readouterr().err


def test_answers_are_scored_as_the_tasks_say() -> None:
    llm = make_llm("tiny-llada")  # type: ignore[arg-type]
    workload = task_workload(llm.engine, ["sorting", "chains"], 3, 0, early_stop=True)
    assert [each.task for each in workload.problems] == ["sorting", "chains"] * 3
    answers = [llm.tokenizer.encode_part(each.reference) for each in workload.problems]
    assert workload.accuracy(answers) == (1.0, pytest.approx((0.61, 1.0), abs=0.01))
    found = workload.accuracy([*answers[:3], *[[]] * 3])
    assert found is not None
    assert found[0] == 0.5


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder = write_dream_checkpoint(tmp_path, dream_config())
    with pytest.raises(ConfigError, match="no peer decodes DreamModel"):
        DenseForward(load_model(folder, CPU, torch.float32))
    with pytest.raises(ConfigError, match="transformers has no model that computes DreamModel"):
        TransformersForward(folder, CPU, torch.float32, mask_block=None, mask=3)
