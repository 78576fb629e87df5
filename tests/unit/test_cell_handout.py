"""Cells go to workers by need, one at a time, and those that end workers are set aside."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starr_engine.study.grid.cell_handout import CellHandout
from tests.helpers.made_results import made_cell

CELLS = [made_cell(model=model, seed=seed) for model in ("one", "two") for seed in range(6)]


def test_workers_stay_with_the_model_they_have_and_share_the_last_one():
    handout = CellHandout(CELLS)
    taken: dict[int, list[str]] = {0: [], 1: []}
    order = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0]
    for worker in order:
        number = handout.take(worker)
        assert number is not None and handout.take(worker) is None
        taken[worker].append(CELLS[number].model)
        handout.finish(worker)
    assert handout.is_done
    # Worker 0 is the faster one: it ends the first model and then helps with the second.
    assert taken == {0: ["one"] * 6 + ["two"] * 3, 1: ["two"] * 3}


@given(data=st.data())
def test_every_cell_is_finished_once_or_ends_two_workers(data):
    killers = data.draw(st.sets(st.sampled_from(range(len(CELLS)))))
    handout = CellHandout(CELLS)
    keys = [0, 1, 2]
    finished: list[int] = []
    set_aside: list[int] = []
    num_deaths = 0
    held: dict[int, int] = {}
    while not handout.is_done:
        for key in keys:
            if (number := handout.take(key)) is not None:
                held[key] = number
        at = data.draw(st.sampled_from([at for at, key in enumerate(keys) if key in held]))
        key, number = keys[at], held.pop(keys[at])
        if data.draw(st.booleans()) and num_deaths < 40:  # its machine goes down
            assert handout.lose(key, is_blameless=True) is None
        elif number in killers:
            lost = handout.lose(key)
            assert lost in (None, number)
            set_aside += [] if lost is None else [lost]
        else:
            handout.finish(key)
            finished.append(number)
            continue
        num_deaths += 1
        keys[at] = max(keys) + 1
    assert sorted(finished) == [at for at in range(len(CELLS)) if at not in killers]
    assert sorted(set_aside) == sorted(killers)
