"""Where requests go: the least work, with prefixes counted, whatever the loads are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starr_engine.distributed.routing import (
    PROMPT_SHARE,
    Load,
    PrefixMemory,
    choose,
    page_chain,
    request_tokens,
)

TOKENS = st.lists(st.integers(0, 3), max_size=40)


@st.composite
def loads(draw: st.DrawFn, cached: bool = True) -> list[Load]:
    keys = draw(st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True))
    return [
        Load(
            key=key,
            outstanding_tokens=draw(st.integers(0, 50)),
            num_requests=draw(st.integers(0, 3)),
            cached_tokens=draw(st.integers(0, 200)) if cached else 0,
        )
        for key in keys
    ]


@given(loads(cached=False))
def test_without_prefixes_the_least_outstanding_tokens_decide(given_loads: list[Load]):
    chosen = {load.key: load for load in given_loads}[choose(given_loads)]
    assert chosen.outstanding_tokens == min(load.outstanding_tokens for load in given_loads)


@given(loads(), st.randoms(use_true_random=False))
def test_the_order_of_the_replicas_decides_nothing(given_loads: list[Load], random):
    chosen = choose(given_loads)
    random.shuffle(given_loads)
    assert choose(given_loads) == chosen


@given(loads())
def test_a_prefix_draws_no_request_to_more_work_than_it_saves(given_loads: list[Load]):
    chosen = {load.key: load for load in given_loads}[choose(given_loads)]
    for other in given_loads:
        saved = chosen.cached_tokens - other.cached_tokens
        assert chosen.outstanding_tokens - other.outstanding_tokens <= saved / PROMPT_SHARE + 1


@given(loads(cached=False), st.integers(PROMPT_SHARE, 200))
def test_of_equal_loads_the_one_with_the_prefix_is_taken(given_loads: list[Load], cached: int):
    level = [Load(key=load.key, outstanding_tokens=7, num_requests=1) for load in given_loads]
    owner = level[-1].key
    level[-1] = Load(key=owner, outstanding_tokens=7, num_requests=1, cached_tokens=cached)
    assert choose(level) == owner


def test_idle_replicas_are_filled_in_turn():
    outstanding = {0: 0, 1: 0, 2: 0}
    order = []
    for _ in range(6):
        key = choose(
            [Load(key=k, outstanding_tokens=v, num_requests=0) for k, v in outstanding.items()]
        )
        outstanding[key] += request_tokens(8, 16)
        order.append(key)
    assert order == [0, 1, 2, 0, 1, 2]
    assert request_tokens(8, 16) == 18 and request_tokens(1, 0) == 1


@given(TOKENS, TOKENS, st.integers(1, 5), st.sampled_from(["", "a"]), st.sampled_from(["", "a"]))
def test_chains_agree_for_as_many_pages_as_the_tokens_do(one, two, page_size, salt, other):
    chains = page_chain(one, page_size, salt), page_chain(two, page_size, other)
    assert [len(chain) for chain in chains] == [len(one) // page_size, len(two) // page_size]
    same = 0
    while same < len(one) and same < len(two) and one[same] == two[same]:
        same += 1
    agreeing = 0
    while agreeing < min(map(len, chains)) and chains[0][agreeing] == chains[1][agreeing]:
        agreeing += 1
    assert agreeing == (same // page_size if salt == other else 0)


@given(st.lists(TOKENS, max_size=8), TOKENS, st.integers(0, 12))
def test_a_memory_knows_a_prefix_only_if_it_was_noted_and_never_more_than_its_pages(
    noted, asked, num_pages
):
    memory, everything = PrefixMemory(num_pages), PrefixMemory(10**6)
    for tokens in noted:
        memory.note(page_chain(tokens, 4, ""))
        everything.note(page_chain(tokens, 4, ""))
    chain = page_chain(asked, 4, "")
    longest = max((common(asked, tokens) // 4 for tokens in noted), default=0)
    assert everything.num_known(chain) == longest
    assert memory.num_known(chain) <= min(longest, num_pages)
    memory.note(chain)
    assert memory.num_known(chain) == min(len(chain), num_pages)


def common(one: list[int], two: list[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )
