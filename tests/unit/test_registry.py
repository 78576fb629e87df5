"""Names to classes: loading on first use, arguments by name, and what unknown names are told."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, RequestError
from starr_engine.registry import Registry


@dataclass(frozen=True)
class Fruit:
    colour: str = "green"
    weight: int = 1
    made: bool = field(default=True, init=False)


@dataclass(frozen=True)
class Stone:
    pass


@pytest.fixture
def fruits() -> Registry[Fruit]:
    fruits: Registry[Fruit] = Registry("fruit", RequestError)
    fruits.add("pear", Fruit)
    fruits.add("apple", f"{__name__}:Fruit")
    return fruits


def test_a_class_and_a_target_by_name_give_the_same(fruits: Registry[Fruit]) -> None:
    assert fruits.get("pear") is fruits.get("apple") is Fruit
    assert fruits.create("apple", {"weight": 3}) == Fruit(weight=3)
    assert fruits.create("pear", {}) == Fruit()


def test_names_are_listed_in_order_and_nothing_is_imported_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_fruit.py").write_text("class Melon: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fruits: Registry[object] = Registry("fruit")
    fruits.add("melon", "lazy_fruit:Melon")
    fruits.add("fig", Fruit)
    assert fruits.names() == list(fruits) == ["fig", "melon"]
    assert "melon" in fruits and "plum" not in fruits
    assert "lazy_fruit" not in sys.modules
    assert fruits.get("melon").__name__ == "Melon"
    assert fruits.get("melon") is fruits.get("melon")
    monkeypatch.delitem(sys.modules, "lazy_fruit")


def test_a_name_can_be_registered_once(fruits: Registry[Fruit]) -> None:
    with pytest.raises(ConfigError, match="fruit 'pear' is registered already; choose another"):
        fruits.add("pear", Fruit)


def test_an_unknown_name_is_answered_with_the_nearest_and_all(fruits: Registry[Fruit]) -> None:
    with pytest.raises(RequestError) as caught:
        fruits.get("appel")
    assert str(caught.value) == "unknown fruit 'appel'; did you mean 'apple'? known: apple, pear"
    with pytest.raises(RequestError) as caught:
        fruits.get("xyz")
    assert str(caught.value) == "unknown fruit 'xyz'; known: apple, pear"


def test_an_unknown_argument_is_answered_with_the_nearest_and_all(fruits: Registry[Fruit]) -> None:
    with pytest.raises(
        RequestError, match=r"fruit 'pear' has no argument 'color'.*did you mean 'co"
    ):
        fruits.create("pear", {"color": "red"})
    # A field that the class sets itself is no argument.
    with pytest.raises(RequestError, match=r"has no argument 'made'.* known: colour, weight"):
        fruits.create("pear", {"made": False})
    stones: Registry[Stone] = Registry("stone")
    stones.add("flint", Stone)
    with pytest.raises(ConfigError, match="stone 'flint' has no argument 'x': it takes none"):
        stones.create("flint", {"x": 1})


def test_what_cannot_be_compared_by_value_is_refused_before_it_meets_others() -> None:
    @dataclass
    class Melting:
        size: int = 1

    fruits: Registry[Melting] = Registry("fruit", RequestError)
    fruits.add("ice", Melting)
    with pytest.raises(RequestError, match="the class of fruit 'ice' must be a frozen data class"):
        fruits.create("ice", {})


@pytest.mark.parametrize("registry", [REMASKING_POLICIES, CACHE_POLICIES])
def test_every_registered_policy_is_made_without_arguments_and_hashes_by_value(
    registry: Registry[object],
) -> None:
    for name in registry:
        made, again = registry.create(name, {}), registry.create(name, {})
        assert made is not again
        assert made == again
        assert hash(made) == hash(again)
