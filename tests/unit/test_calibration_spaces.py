"""Search spaces: what is in them, what a user may write, and what is drawn from them."""

from __future__ import annotations

import dataclasses
import random

import pytest

from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, RequestError
from starr_engine.study.calibration.candidates import draw, key_of, neighbours
from starr_engine.study.calibration.spaces import (
    OFF_SHARE,
    SPACES,
    Choices,
    Range,
    parse_dimension,
    space_of,
)

POLICIES = [name for name in SPACES if name in REMASKING_POLICIES]


def anything(setting) -> None:
    """A check that accepts."""


@pytest.mark.parametrize("policy", POLICIES)
def test_every_space_holds_arguments_that_its_policy_has_and_takes(policy):
    known = {each.name for each in dataclasses.fields(REMASKING_POLICIES.get(policy))}
    assert set(SPACES[policy]) <= known
    settings = draw(
        SPACES[policy], 40, random.Random(0), lambda args: REMASKING_POLICIES.create(policy, args)
    )
    assert len(settings) == 40
    for setting in settings:
        REMASKING_POLICIES.create(policy, setting)


@pytest.mark.parametrize(
    ("dimension", "place", "value"),
    [
        (Range(low=0.0, high=2.0), 0.25, 0.5),
        (Range(low=1, high=4, is_integer=True), 0.0, 1),
        (Range(low=1, high=4, is_integer=True), 0.999, 4),
        (Range(low=0.01, high=1.0, is_log=True), 0.5, 0.1),
        (Range(low=0.0, high=1.0, can_be_off=True), OFF_SHARE * 0.99, 0.0),
        (Range(low=0.0, high=1.0, can_be_off=True), (1 + OFF_SHARE) / 2, 0.5),
        (Choices(values=(None, 3, "x")), 0.4, 3),
    ],
)
def test_a_place_is_a_value_and_back(dimension, place, value):
    assert dimension.at(place) == value
    assert dimension.at(dimension.place(value)) == value


def test_values_have_three_digits_and_stay_inside():
    third = Range(low=0.0, high=1.0).at(1 / 3)
    assert third == 0.333
    assert Range(low=0.12345, high=0.2).at(0.0) == 0.12345


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("0.5:1", Range(low=0.5, high=1)),
        ("1:8", Range(low=1, high=8, is_integer=True)),
        ("0.01:1:log", Range(low=0.01, high=1, is_log=True)),
        ("2,3,null,mean", Choices(values=(2, 3, None, "mean"))),
        ("true", Choices(values=(True,))),
    ],
)
def test_a_user_writes_ranges_and_values(text, dimension):
    assert parse_dimension("k", text) == dimension


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:0.5", "LOW < HIGH"),
        ("0:1.0:log", "0 < LOW < HIGH"),
        ("0.1:1:cubic", "LOW:HIGH or LOW:HIGH:log"),
        ("1:2:3:4", "LOW:HIGH or LOW:HIGH:log"),
        ("a:b", "the ends of a range are numbers"),
        ("1:8:log", "whole numbers has no log"),
        ("1,,2", "a value is a number"),
    ],
)
def test_a_range_that_is_none_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_dimension("k", text)


def test_given_ranges_replace_and_fixed_arguments_leave_the_space():
    known = ["temporal_window", "alpha", "beta", "signal"]
    space = space_of("starr", ["alpha=0.1:0.2"], {"beta": 0.0}, known)
    assert space["alpha"] == Range(low=0.1, high=0.2)
    assert "beta" not in space
    assert "gamma" in space


def test_a_policy_without_a_space_takes_the_users():
    assert list(space_of("mine", ["k=0.1:0.9"], {}, ["k", "m"])) == ["k"]
    with pytest.raises(ConfigError, match="it has no search space; give --space"):
        space_of("mine", [], {}, ["k"])
    with pytest.raises(ConfigError, match="'mine' has no such argument; it has k, m"):
        space_of("mine", ["j=1:2"], {}, ["k", "m"])
    with pytest.raises(ConfigError, match="all of its arguments are fixed"):
        space_of("threshold", [], {"threshold": 0.9}, ["threshold"])
    with pytest.raises(ConfigError, match="--space takes"):
        space_of("threshold", ["threshold"], {}, ["threshold"])


def test_a_hypercube_uses_every_part_of_a_range_once():
    settings = draw({"k": Range(low=0.0, high=10.0)}, 10, random.Random(1), anything)
    assert sorted(int(setting["k"]) for setting in settings) == list(range(10))


def test_a_space_of_few_values_gives_each_at_most_once():
    settings = draw({"k": Choices(values=(1, 2))}, 10, random.Random(1), anything)
    assert sorted(setting["k"] for setting in settings) == [1, 2]


def refuse_low(setting) -> None:
    if setting["a"] < setting["b"]:
        raise RequestError("a must not be below b")


def test_combinations_that_the_policy_refuses_are_drawn_again():
    space = {"a": Range(low=0.0, high=1.0), "b": Range(low=0.0, high=1.0)}
    settings = draw(space, 30, random.Random(2), refuse_low)
    assert len(settings) == 30
    assert all(setting["a"] >= setting["b"] for setting in settings)
    near = neighbours(
        space, settings[:3], 20, random.Random(3), refuse_low, spread=0.5, known=set()
    )
    assert all(setting["a"] >= setting["b"] for setting in near)


def test_a_space_of_refused_combinations_is_an_error_with_the_reason():
    space = {"a": Range(low=0.0, high=1.0), "b": Range(low=2.0, high=3.0)}
    with pytest.raises(ConfigError, match="because a must not be below b; narrow the space"):
        draw(space, 3, random.Random(2), refuse_low)


def test_neighbours_are_new_and_near_and_the_same_for_one_seed():
    space = {"a": Range(low=0.0, high=1.0), "n": Range(low=1, high=9, is_integer=True)}
    centre = {"a": 0.5, "n": 5}

    def near(seed: int):
        known = {key_of(centre)}
        return neighbours(
            space, [centre], 12, random.Random(seed), anything, spread=0.05, known=known
        )

    assert near(1) == near(1) != near(2)
    assert centre not in near(1)
    assert all(abs(each["a"] - 0.5) < 0.3 and abs(each["n"] - 5) <= 3 for each in near(1))
