"""Which replica gets a request: pure, so that it can be tested to the end. Knows nothing of Ray."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PROMPT_SHARE: Final = 4
"""So many tokens of a prompt weigh as much as one to generate: those of a prompt are one row each,
computed once, those to generate are rows of every step of their block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What routing sees of a replica that takes requests."""

    key: int
    """Unique among the replicas; older ones have smaller keys."""

    outstanding_tokens: int
    """Of its unfinished requests, as :func:`request_tokens` counts them."""

    num_requests: int
    """Unfinished."""

    cached_tokens: int = 0
    """Of the prompt in question, those whose pages it is likely to have."""


def choose(loads: Sequence[Load]) -> int:
    """The replica that would be done with its work and this request first.

    That is the one with the least outstanding tokens, where it is credited with what it needs not
    compute of the prompt. So a prefix draws a request to the replica that has it, unless that one
    has more work in front of it than the prefix saves.

    Args:
        loads: At least one, in any order.

    Returns:
        Its key; of equals the one with the fewest requests, then the oldest.
    """
    best = min(
        loads,
        key=lambda load: (
            load.outstanding_tokens - load.cached_tokens // PROMPT_SHARE,
            load.num_requests,
            load.key,
        ),
    )
    return best.key


def request_tokens(prompt_tokens: int, new_tokens: int) -> int:
    """What a request weighs.

    Args:
        prompt_tokens: Still to be computed.
        new_tokens: Still to be generated.
    """
    return -(-prompt_tokens // PROMPT_SHARE) + new_tokens


def page_chain(token_ids: Sequence[int], page_size: int, salt: str) -> list[int]:
    """A number for each whole page of a prompt, which stands for all tokens up to its end.

    Equal numbers of different prefixes would cost a detour, and no wrong token: engines compare
    by keyed hashes of their own.
    """
    chain: list[int] = []
    link = hash(salt)
    for start in range(0, len(token_ids) - page_size + 1, page_size):
        link = hash((link, *token_ids[start : start + page_size]))
        chain.append(link)
    return chain


class PrefixMemory:
    """Which prefixes a replica has seen last; what it has evicted since is a guess.

    Args:
        num_pages: Remembered, as many as the replica has.
    """

    def __init__(self, num_pages: int) -> None:
        self._num_pages: Final = num_pages
        self._pages: Final[OrderedDict[int, None]] = OrderedDict()

    def num_known(self, chain: Sequence[int]) -> int:
        """Pages at the start of a chain that were seen."""
        for count, link in enumerate(chain):
            if link not in self._pages:
                return count
        return len(chain)

    def note(self, chain: Sequence[int]) -> None:
        """The replica has, or will have, the pages of a chain."""
        for link in reversed(chain):  # the first page is evicted last: without it none is found
            self._pages[link] = None
            self._pages.move_to_end(link)
        while len(self._pages) > self._num_pages:
            self._pages.popitem(last=False)
