"""What ``starr-engine info`` says of a model's cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from starr_engine import LLM
from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.cli.main import main
from starr_engine.cli.memory_report import cache_labels, fitting_requests, request_lengths
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.errors import ConfigError
from tests.helpers.engines import make_llm
from tests.helpers.rank_threads import RankThreads
from tests.helpers.sdar_checkpoints import write_sdar_checkpoint
from tests.helpers.word_models import write_word_model

FREE = 1_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


def section(text: str, name: str) -> list[str]:
    """The lines below ``name:``, in front of the next section."""
    lines = text.splitlines()
    behind = lines[lines.index(f"{name}:") + 1 :]
    return behind[: next((i for i, line in enumerate(behind) if line[0] != " "), len(behind))]


def test_the_table_says_how_many_requests_of_a_length_fit(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--kv-memory", "1MiB", "--dtype", "float32", "--device", "cpu"]
    assert main(["info", "--model", model, *flags]) == 0
    shown = capsys.readouterr().out
    # 768 bytes a row; 42 pages of 24,576 bytes are a little less than 1 MiB.
    assert section(shown, "KV cache") == [
        "  dtype: float32",
        "  device: cpu",
        "  page size: 32",
        "  bytes per page: 24576",
        "  bytes per page that dllm adds: 12288",
        "  budget in bytes: 1,048,576",
        "  pages: 42",
    ]
    assert section(shown, "requests that fit at once") == [
        "  tokens  pages  requests",
        "      32      1        42",
        "      64      2        21",
        "     128      4        10",
        "     160      5         8",
    ]


def test_the_pages_are_those_that_an_engine_would_have(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"kv_memory": "100KB", "max_model_len": 100, "page_size": 10, "dtype": "bfloat16"}
    flags = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    lengths = ["--request-length", "1", "100", "30"]
    assert main(["info", "--model", model, "--device", "cpu", *flags, *lengths, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    engine = LLM(model, device="cpu", **options).engine  # type: ignore[arg-type]
    assert shown["KV cache"]["pages"] == engine.page_pool.num_pages - 1 == 26
    assert shown["requests that fit at once"] == [
        {"tokens": 1, "pages": 1, "requests": 26},
        {"tokens": 100, "pages": 10, "requests": 2},
        {"tokens": 30, "pages": 3, "requests": 8},
    ]


def test_of_a_split_model_it_is_the_memory_of_each_rank(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for count in (1, 2):
        flags = ["--kv-memory", "100KB", "--device", "cpu", "--tensor-parallel-size", str(count)]
        assert main(["info", "--model", model, *flags, "--json"]) == 0
        shown[count] = json.loads(capsys.readouterr().out)
    config = EngineConfig(model=model, device="cpu", kv_memory="100KB", tensor_parallel_size=2)
    engine = Engine(config, RankThreads)
    share = shown[2]["each of 2 ranks"]
    # Rank 0 has one token of 101 less than the last one, and so fewer rows of two tables.
    last = sum(weight.numel() for weight in engine.executor._model.parameters())
    assert share["parameters"] == last + 2 * engine.spec.hidden_size
    assert share["weight bytes"]["float32"] == 4 * share["parameters"]
    assert engine.weight_bytes == 4 * last
    assert engine.num_parameters == shown[1]["model"]["parameters"]
    assert shown[2]["model"] == shown[1]["model"]
    assert shown[2]["KV cache"]["bytes per page"] * 2 == shown[1]["KV cache"]["bytes per page"]
    assert shown[2]["KV cache"]["pages"] == engine.page_pool.num_pages - 1
    assert shown[2]["cache policies for this model"]["dllm"] == "not for a split model"
    engine.close()


def test_a_fraction_leaves_room_for_the_weights(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starr_engine.engine.memory.free_memory", lambda _: FREE)
    flags = ["--kv-memory", "50%", "--dtype", "bfloat16", "--json"]
    assert main(["info", "--model", model, *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    left = FREE - 2 * shown["model"]["parameters"]
    assert shown["KV cache"]["bytes free beside the model"] == left
    assert shown["KV cache"]["budget in bytes"] == left // 2


def test_a_budget_below_one_page_is_shown_as_none(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--model", model, "--kv-memory", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["KV cache"]["pages"] == 0
    assert {row["requests"] for row in shown["requests that fit at once"]} == {0}


def test_each_cache_policy_says_what_its_outputs_are(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--model", model]) == 0
    shown = section(capsys.readouterr().out, "cache policies for this model")
    for line in ("block_causal: not for this model", "dual: approximate: temporal reuse"):
        assert f"  {line}" in shown
    assert [line for line in shown if line.endswith(": exact")] == ["  none: exact"]
    assert main(["info", "--model", str(write_sdar_checkpoint(tmp_path))]) == 0
    shown = section(capsys.readouterr().out, "cache policies for this model")
    exact = {"  block_causal: exact", "  none: exact", "  prefix: exact", "  dual: exact"}
    assert exact <= set(shown)


def test_a_plugin_that_is_broken_is_named_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CACHE_POLICIES._targets, "broken", object)
    labels = cache_labels(None)
    assert labels["broken"].startswith("cache policy 'broken' must be a frozen data class")
    assert labels["none"] == "exact"


def test_pages_of_a_block_causal_model_end_where_its_blocks_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_sdar_checkpoint(tmp_path))  # blocks of 8
    for flags, page_size in (([], 32), (["--mask-block-length", "12"], 36)):
        assert main(["info", "--model", folder, *flags, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["KV cache"]["page size"] == page_size
    assert make_llm(Path(folder), mask_block_length=12).engine.page_pool.page_size == 36
    with pytest.raises(ConfigError, match=r"page_size=20 .* multiple of 8, such as 16 or 24"):
        make_llm(Path(folder), page_size=20)
    assert main(["info", "--model", folder, "--page-size", "20"]) == 2
    assert "multiple of 8, such as 16 or 24" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page_size", "limit", "lengths"),
    [(32, 160, [32, 64, 128, 160]), (32, 64, [32, 64]), (48, 100, [64, 100]), (32, 20, [20])],
)
def test_lengths_are_powers_of_two_from_one_page_to_the_longest_request(
    page_size: int, limit: int, lengths: list[int]
) -> None:
    assert request_lengths(None, page_size, limit) == lengths
    assert fitting_requests([33], 32, 9) == [{"tokens": 33, "pages": 2, "requests": 4}]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--kv-memory", "2GB", "--request-length", "5"],
         "only together with --model: --kv-memory, --request-length"),
        (["--model", "MODEL", "--request-length", "5", "0", "161"],
         "--request-length must be from 1 to 160, the longest request; got 0, 161"),
        (["--model", "MODEL", "--kv-memory", "lots"], "kv_memory must be bytes as an integer"),
        (["--model", "MODEL", "--max-model-len", "500"], "max_model_len=500 is beyond"),
    ],
)  # fmt: skip
def test_a_flag_that_cannot_be_followed_is_refused(
    model: str, capsys: pytest.CaptureFixture[str], argv: list[str], problem: str
) -> None:
    assert main(["info", *(model if word == "MODEL" else word for word in argv)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, problem in shown.err) == ("", True)


@pytest.mark.parametrize("command", ["batch", "generate", "chat", "trace", "calibrate"])
def test_every_command_with_an_engine_takes_the_budget(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--kv-memory SIZE" in capsys.readouterr().out


def test_the_budget_of_the_command_line_reaches_the_engine(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "w1", "--model", model, "--kv-memory", "0.01KiB"]) == 2
    assert "kv_memory='0.01KiB' (10 bytes) holds no page of" in capsys.readouterr().err
