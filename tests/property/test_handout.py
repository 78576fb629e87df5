"""Whatever dies and whenever: every row comes out once, in order, and only guilty ones fail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starr_engine.distributed.handout import Handout
from starr_engine.offline.rows import RawRow


class World:
    """Workers that are simulated: any of them may take, finish or die next."""

    def __init__(self, count: int, guilty: set[int], window: int, capacity: int) -> None:
        self.emitted: list[dict] = []
        self.deaths: dict[int, int] = {}
        self.most_open = 0
        self._num_read = 0
        self._guilty = guilty
        self._capacity = capacity
        self._num_workers = 0
        self.held: dict[int, list[int]] = {}
        self.handout = Handout(
            self._rows(count), start=0, end=count, num_workers=3, window=window,
            emit=self.emitted.append,
        )  # fmt: skip

    def _rows(self, count: int):
        for index in range(count):
            self._num_read += 1
            self.most_open = max(self.most_open, self._num_read - len(self.emitted))
            yield RawRow(index=index, columns={"id": index, "prompt": "x"})

    def start(self) -> None:
        self.held[self._num_workers] = []
        self._num_workers += 1

    def take(self, worker: int) -> None:
        rows = self.handout.take(worker, self._capacity)
        self.held[worker] += [row.index for row in rows]
        assert len(self.held[worker]) == self.handout.num_held(worker) <= self._capacity

    def finish(self, worker: int, place: int) -> None:
        """A worker with a guilty row in it ends nothing but itself."""
        if not self.held[worker]:
            return
        if self._guilty & set(self.held[worker]):
            self.die(worker)
            return
        index = self.held[worker].pop(place % len(self.held[worker]))
        self.handout.finish(worker, index, {"id": index, "error": None})

    def die(self, worker: int, *, is_blameless: bool = False) -> None:
        for index in self.held.pop(worker):
            self.deaths[index] = self.deaths.get(index, 0) + 1
        self.handout.lose(worker, "gone", is_blameless=is_blameless)
        self.start()

    def run(self) -> None:
        """From here on nobody dies but of a guilty row."""
        while not self.handout.is_done:
            for worker in list(self.held):
                self.take(worker)
                self.finish(worker, 0)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "finish", "die", "vanish"]), st.integers(0, 2),
              st.integers(0, 9)),
    max_size=60,
)  # fmt: skip


@given(
    count=st.integers(0, 40),
    guilty=st.sets(st.integers(0, 39), max_size=4),
    window=st.integers(1, 20),
    capacity=st.integers(1, 6),
    actions=ACTIONS,
)
def test_every_row_comes_out_once_in_order(
    count: int, guilty: set[int], window: int, capacity: int, actions: list
):
    world = World(count, guilty, window, capacity)
    for _ in range(3):
        world.start()
    num_killed = 0
    for action, number, place in actions:
        worker = sorted(world.held)[number]
        if action == "take":
            world.take(worker)
        elif action == "finish":
            world.finish(worker, place)
        else:
            num_killed += action == "die" and bool(world.held[worker])
            world.die(worker, is_blameless=action == "vanish")
    world.run()
    assert [row["id"] for row in world.emitted] == list(range(count))
    failed = {row["id"] for row in world.emitted if row["error"]}
    assert failed >= guilty & set(range(count)), "a guilty row has no answer"
    assert all(world.deaths[index] >= 2 for index in failed)
    if not num_killed:
        assert failed <= guilty, "nobody was killed from outside, so no innocent row may fail"
    assert world.most_open <= window
    assert world.handout.num_set_aside == len(failed)


@given(st.integers(1, 6), st.integers(0, 5))
def test_one_death_from_outside_fails_no_row(capacity: int, place: int):
    world = World(30, set(), 30, capacity)
    for _ in range(2):
        world.start()
    world.take(0)
    world.take(1)
    world.finish(0, place)
    world.die(0)
    world.run()
    assert [row["error"] for row in world.emitted] == [None] * 30


def test_a_suspect_runs_alone_and_the_others_go_on():
    world = World(20, set(), 20, 3)
    for _ in range(3):
        world.start()
    for worker in (0, 1):
        world.take(worker)
    world.die(0)
    world.take(2)
    assert world.held[2] == [0], "the idle worker gets one suspect"
    world.take(2)
    assert world.held[2] == [0], "and nothing beside it"
    world.finish(1, 0)
    world.take(1)
    assert world.held[1] == [4, 5, 6], "the busy one gets new rows"
    world.die(2)
    (row,) = world.emitted
    assert row["id"] == 0
    assert "twice" in row["error"] and "gone" in row["error"]
    assert row["text"] is None
    assert "prompt" not in row


def test_near_the_end_no_worker_has_more_than_its_share():
    world = World(10, set(), 20, 36)
    for _ in range(3):
        world.start()
    for worker in range(3):
        world.take(worker)
    assert [len(rows) for rows in world.held.values()] == [4, 4, 2]
