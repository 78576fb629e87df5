"""A model's name is a shipped model, a folder or a hub id, and an error says why it is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.errors as errors
import pytest

from starr_engine import LLM
from starr_engine.errors import ConfigError
from starr_engine.models.loading import locate
from starr_engine.models.loading.locate import fetch_weights, resolve_model


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships ``tiny-one`` and ``tiny-two``, and a folder that is no model."""
    for name in ("tiny-two", "tiny-one"):
        (tmp_path / "assets" / name).mkdir(parents=True)
        (tmp_path / "assets" / name / "config.json").write_text("{}")
    (tmp_path / "assets" / "prompts").mkdir()
    monkeypatch.setattr(locate, "_ASSETS", tmp_path / "assets")
    return tmp_path / "assets"


def hub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> list[dict[str, Any]]:
    """Replace the hub by one answer; returns the calls it gets."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def refusal(model: str) -> str:
    """Message of the refusal of ``model``."""
    with pytest.raises(ConfigError) as caught:
        resolve_model(model)
    return str(caught.value)


def test_a_shipped_name_is_found_in_the_package(assets: Path) -> None:
    assert resolve_model("tiny-one") == assets / "tiny-one"


def test_a_folder_is_taken_as_it_is(assets: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_of_a_hub_id_the_weights_are_fetched_last_and_no_format_that_can_run_code(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = hub(monkeypatch, tmp_path / "snapshot")
    assert resolve_model("owner/name", "v2") == tmp_path / "snapshot"
    fetch_weights("owner/name", "v2")
    small, all_files = calls
    assert small["repo_id"] == all_files["repo_id"] == "owner/name"
    assert small["revision"] == all_files["revision"] == "v2"
    assert set(small["allow_patterns"]) == {"*.json", "*.jinja", "*.model", "*.txt"}
    assert {*all_files["allow_patterns"]} - {*small["allow_patterns"]} == {"*.safetensors"}


def test_weights_that_are_here_are_not_fetched_and_have_no_revision(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, AssertionError("asked"))
    fetch_weights("tiny-one")
    fetch_weights(str(tmp_path))
    with pytest.raises(ConfigError, match="revision='v2' is for models of the hub"):
        resolve_model("tiny-one", "v2")


def test_a_model_that_cannot_be_used_costs_no_download_of_weights(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(
        '{"architectures": ["GPT2LMHeadModel"], "auto_map": {"AutoModel": "modeling.Model"}}'
    )
    calls = hub(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"not a diffusion language model .*code .* never run"):
        LLM("owner/name")
    assert len(calls) == 1


ANSWER: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (errors.GatedRepoError("x", response=ANSWER), "asks for consent.*hf auth login"),
        (errors.RevisionNotFoundError("x", response=ANSWER), "has no revision 'v2'"),
        (errors.RepositoryNotFoundError("x", response=ANSWER), "no such model, or it is"),
        (errors.LocalEntryNotFoundError("x"), "not in the hub's local cache.*check the network"),
        (errors.OfflineModeIsEnabled("x"), "not in the hub's local cache"),
    ],
    ids=["gated", "revision", "repository", "no network", "offline"],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    assets: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, message: str
) -> None:
    hub(monkeypatch, problem)
    with pytest.raises(ConfigError, match=message):
        resolve_model("owner/name", "v2")


@pytest.mark.parametrize("model", ["tiny-on", "./absent", "/absent", "~/absent", "a/b/c", "a/"])
def test_a_name_that_cannot_be_a_hub_id_is_refused_without_asking(
    assets: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    calls = hub(monkeypatch, AssertionError("asked"))
    monkeypatch.chdir(assets)
    assert "hub ids have the form owner/name" in refusal(model)
    assert not calls


def test_a_typing_error_gets_the_shipped_names_and_the_nearest(assets: Path) -> None:
    assert refusal("tiny-on") == (
        "unknown model 'tiny-on'; did you mean 'tiny-one'? it is not shipped "
        "(tiny-one, tiny-two), not a folder, and not reachable on the hub "
        "(hub ids have the form owner/name)"
    )


@pytest.mark.parametrize(
    "problem", [FileNotFoundError("no copy here and no network"), ValueError("no such repository")]
)
def test_an_unreachable_hub_is_given_as_the_reason(
    assets: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    hub(monkeypatch, problem)
    assert refusal("owner/name").endswith(
        f"not reachable on the hub ({type(problem).__name__}: {problem})"
    )


def test_without_the_hub_package_the_message_says_what_to_install(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in refusal("owner/name")
