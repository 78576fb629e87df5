"""Facts in a sentence, to be written as a JSON object."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from starr_engine.study.tasks.base import JsonValue, Problem, problem_id
from starr_engine.study.tasks.words import ANIMALS, CITIES, COLORS, DAYS, EVENTS, ITEMS, JOBS, NAMES

Record: TypeAlias = dict[str, str | int | bool]

_REQUESTS: Final = ("Write as JSON: {}", "Turn into JSON: {}", "JSON for this: {}", "{} As JSON:")


class JsonExtraction:
    """Sentences about people, products, events, tickets, pets and orders."""

    name = "json_extraction"
    requests: Sequence[str] = _REQUESTS

    def generate(self, rng: random.Random) -> Problem:
        """Return one sentence; ``answer`` is the object."""
        sentence, record = rng.choice(_SENTENCES)(rng)
        prompt = rng.choice(self.requests).format(sentence)
        answer: dict[str, JsonValue] = dict(record)
        return Problem(problem_id(self.name, prompt), self.name, prompt, json.dumps(record), answer)

    def score(self, problem: Problem, text: str) -> bool:
        """Return whether the text parses to an equal object (key order is free)."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        # bool is an int in Python: compare the canonical texts, where true is not 1
        return json.dumps(value, sort_keys=True) == json.dumps(problem.answer, sort_keys=True)

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score the answers one by one."""
        return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]


def _person(rng: random.Random) -> tuple[str, Record]:
    name, city, job = rng.choice(NAMES), rng.choice(CITIES), rng.choice(JOBS)
    age = rng.randint(18, 90)
    full: Record = {"name": name, "age": age, "city": city, "job": job}
    return rng.choice(
        [
            (f"{name} is {age} years old, lives in {city} and works as a {job}.", full),
            (f"{name} is a {job} from {city} and {age} years old.", full),
            (f"In {city} there is a {job} named {name}, {age} years old.", full),
            (f"{name} is {age} years old and lives in {city}.", _only(full, "name age city")),
            (f"{name} works in {city} as a {job}.", _only(full, "name city job")),
        ]
    )


def _product(rng: random.Random) -> tuple[str, Record]:
    item, color = rng.choice(ITEMS), rng.choice(COLORS)
    price, stock = rng.randint(2, 99), rng.randint(2, 99)
    full: Record = {"item": item, "color": color, "price": price, "stock": stock}
    return rng.choice(
        [
            (f"The {color} {item} costs {price} dollars and we have {stock} of them.", full),
            (f"We have {stock} of the {item} in {color} at {price} dollars each.", full),
            (f"The {item} is {color} and costs {price} dollars.", _only(full, "item color price")),
            (f"There are {stock} of the {color} {item} left.", _only(full, "item color stock")),
        ]
    )


def _event(rng: random.Random) -> tuple[str, Record]:
    event, day, city = rng.choice(EVENTS), rng.choice(DAYS), rng.choice(CITIES)
    hour, guests = rng.randint(1, 12), rng.randint(2, 99)
    full: Record = {"event": event, "day": day, "hour": hour, "city": city, "guests": guests}
    return rng.choice(
        [
            (f"The {event} in {city} is on {day} at {hour} with {guests} guests.", full),
            (
                f"On {day} at {hour} we go to a {event} in {city}.",
                _only(full, "event day hour city"),
            ),
            (f"{guests} guests come to the {event} on {day}.", _only(full, "event day guests")),
        ]
    )


def _ticket(rng: random.Random) -> tuple[str, Record]:
    start, end = rng.sample(CITIES, 2)
    day, price, paid = rng.choice(DAYS), rng.randint(2, 99), rng.random() < 0.5
    full: Record = {"from": start, "to": end, "day": day, "price": price, "paid": paid}
    state = "is paid" if paid else "is not paid"
    return rng.choice(
        [
            (f"The ticket from {start} to {end} on {day} costs {price} dollars and {state}.", full),
            (f"The {day} ticket to {end} from {start} {state}.", _only(full, "from to day paid")),
            (
                f"It costs {price} dollars to go to {end} from {start}.",
                _only(full, "from to price"),
            ),
        ]
    )


def _pet(rng: random.Random) -> tuple[str, Record]:
    owner, name = rng.sample(NAMES, 2)
    animal, color, age = rng.choice(ANIMALS), rng.choice(COLORS), rng.randint(2, 20)
    full: Record = {"pet": name, "animal": animal, "color": color, "age": age, "owner": owner}
    return rng.choice(
        [
            (f"{owner} has a {color} {animal} named {name}, {age} years old.", full),
            (f"{name} is the {animal} of {owner}.", _only(full, "pet animal owner")),
            (
                f"The {animal} {name} is {color} and {age} years old.",
                _only(full, "pet animal color age"),
            ),
        ]
    )


def _order(rng: random.Random) -> tuple[str, Record]:
    buyer, item, city = rng.choice(NAMES), rng.choice(ITEMS), rng.choice(CITIES)
    count, sent = rng.randint(2, 50), rng.random() < 0.5
    full: Record = {"buyer": buyer, "item": item, "count": count, "city": city, "sent": sent}
    state = "was sent" if sent else "was not sent"
    return rng.choice(
        [
            (f"{buyer} from {city} ordered the {item}, count {count}, and it {state}.", full),
            (f"The {item} for {buyer} in {city} {state}.", _only(full, "buyer item city sent")),
            (f"{buyer} ordered the {item}, count {count}.", _only(full, "buyer item count")),
        ]
    )


def _only(record: Record, keys: str) -> Record:
    return {key: record[key] for key in keys.split()}


_SENTENCES: Final[tuple[Callable[[random.Random], tuple[str, Record]], ...]] = (
    _person,
    _product,
    _event,
    _ticket,
    _pet,
    _order,
)
