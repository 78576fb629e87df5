"""Entries of installed packages: found without being imported, and kept from harming others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from starr_engine.decoding.base import REMASKING_POLICIES, StatelessPolicy
from starr_engine.errors import ConfigError, RequestError
from starr_engine.registry import Registry
from tests.helpers.plugins import write_distribution

GROUP = "starr_engine.test_fruits"
ROOT = Path(__file__).parents[2]

PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Melon:
    seeds: int = 40

Nobody = 3
"""

POLICY = """
from dataclasses import dataclass

from starr_engine.decoding.base import Decision, StatelessPolicy

@dataclass(frozen=True, slots=True, kw_only=True)
class EveryOther(StatelessPolicy):
    share: float = 0.5

    def decide(self, view, state):
        return Decision(unmask=view.masked), state
"""


@dataclass(frozen=True)
class Fruit:
    weight: int = 1


@pytest.fixture
def fruits() -> Registry[Fruit]:
    fruits: Registry[Fruit] = Registry("fruit", RequestError, group=GROUP)
    fruits.add("pear", Fruit)
    return fruits


@pytest.fixture
def melon_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a good entry, four bad ones, and one that takes a taken name."""
    entries = {
        "melon": "melon_patch:Melon",
        "pear": "melon_patch:Melon",
        "absent": "melon_patch:Absent",
        "nowhere": "melon_patch.nowhere:Melon",
        "number": "melon_patch:Nobody",
        "whole": "melon_patch",
    }
    write_distribution(tmp_path, "melon-patch", GROUP, entries, PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "melon_patch", raising=False)
    return tmp_path


@pytest.mark.usefixtures("melon_patch")
def test_entries_of_packages_are_listed_without_importing_and_loaded_when_chosen(
    fruits: Registry[Fruit],
) -> None:
    assert fruits.names() == ["absent", "melon", "nowhere", "number", "pear", "whole"]
    assert "melon" in fruits and "plum" not in fruits
    assert "melon_patch" not in sys.modules
    melon = fruits.create("melon", {"seeds": 3})
    assert (type(melon).__name__, melon.seeds) == ("Melon", 3)  # type: ignore[attr-defined]
    assert fruits.get("melon") is fruits.get("melon") is type(melon)


@pytest.mark.usefixtures("melon_patch")
def test_what_was_added_here_goes_before_an_entry_of_the_same_name(fruits: Registry[Fruit]) -> None:
    assert fruits.get("pear") is Fruit
    fruits.add("melon", Fruit)
    assert fruits.get("melon") is Fruit
    assert fruits.names().count("pear") == fruits.names().count("melon") == 1


@pytest.mark.usefixtures("melon_patch")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "AttributeError: module 'melon_patch' has no attribute 'Absent'"),
        ("nowhere", "ModuleNotFoundError: No module named 'melon_patch.nowhere'"),
    ],
)
def test_a_broken_entry_names_its_package_and_reason_and_harms_no_other(
    fruits: Registry[Fruit], name: str, reason: str
) -> None:
    with pytest.raises(RequestError) as caught:
        fruits.get(name)
    origin = f"the fruit {name!r} of the installed package melon-patch 1.2 cannot be loaded: "
    assert str(caught.value).startswith(origin + reason)
    assert fruits.create("melon", {}) == fruits.get("melon")()


@pytest.mark.usefixtures("melon_patch")
@pytest.mark.parametrize("name", ["number", "whole"])
def test_an_entry_that_is_no_data_class_is_refused(fruits: Registry[Fruit], name: str) -> None:
    with pytest.raises(RequestError, match=f"fruit '{name}' must be a frozen data class, got"):
        fruits.create(name, {})


def test_a_name_that_two_packages_give_is_refused_and_both_are_named(
    fruits: Registry[Fruit], melon_patch: Path
) -> None:
    entries = {"melon": "other_field:Melon", "fig": "other_field:Melon"}
    write_distribution(melon_patch, "other-field", GROUP, entries, PLUGIN)
    with pytest.raises(RequestError) as caught:
        fruits.get("melon")
    assert str(caught.value) == (
        "the fruit 'melon' comes from the installed package melon-patch 1.2 and "
        "the installed package other-field 1.2; uninstall all but one"
    )
    assert fruits.get("fig").__module__ == "other_field"
    sys.modules.pop("other_field")


def test_a_registry_without_a_group_takes_no_entries(melon_patch: Path) -> None:
    closed: Registry[Fruit] = Registry("fruit")
    assert closed.names() == []
    with pytest.raises(ConfigError, match="unknown fruit 'melon'"):
        closed.get("melon")


def test_an_argument_that_is_missing_is_named(fruits: Registry[Fruit]) -> None:
    @dataclass(frozen=True)
    class Grape:
        colour: str
        sweet: bool = True

    fruits.add("grape", Grape)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="fruit 'grape' needs the argument colour"):
        fruits.create("grape", {"sweet": False})


def test_a_policy_that_lacks_a_member_is_refused_before_a_request_runs() -> None:
    policies: Registry[object] = Registry("policy", members=("init_state", "decide"))

    @dataclass(frozen=True)
    class Half(StatelessPolicy):
        pass

    policies.add("half", Half)
    with pytest.raises(ConfigError, match="the class of policy 'half' lacks decide"):
        policies.create("half", {})


def test_info_lists_a_policy_of_an_installed_package(tmp_path: Path) -> None:
    entries = {"every_other": "every_other:EveryOther"}
    group = REMASKING_POLICIES.group
    assert group == "starr_engine.remasking_policies"
    write_distribution(tmp_path, "every-other", group, entries, POLICY)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = ["info", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "starr_engine", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "every_other" in json.loads(run.stdout)["remasking policies"]


def test_a_policy_of_an_installed_package_is_made_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "starr_engine.remasking_policies"
    write_distribution(tmp_path, "every-one", group, {"everyone": "every_one:EveryOther"}, POLICY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(REMASKING_POLICIES, "_loaded_plugins", {})  # forget it afterwards
    policy = REMASKING_POLICIES.create("everyone", {"share": 0.25})
    assert policy == REMASKING_POLICIES.create("everyone", {"share": 0.25})
    with pytest.raises(RequestError, match=r"no argument 'shore'.*did you mean 'share'"):
        REMASKING_POLICIES.create("everyone", {"shore": 1})
    sys.modules.pop("every_one")
