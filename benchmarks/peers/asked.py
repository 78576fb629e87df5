"""What every system of the comparison is asked, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and how much is to come behind it."""

    token_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How all prompts are decoded; greedily, and the mask is never a candidate."""

    mask: int
    """The mask token."""

    eos: tuple[int, ...]
    """Tokens that end an output; empty if nothing does, so that all tokens count."""

    block_length: int
    tokens_per_step: int
    """Of procedures with a fixed pace."""

    threshold: float | None
    """Of procedures with a confidence threshold; None gives them the fixed pace too."""

    early_stop: bool
    """Whether decoding ends behind the block in which an output has ended."""

    def __post_init__(self) -> None:
        if self.block_length % self.tokens_per_step:
            raise ValueError(
                f"tokens_per_step {self.tokens_per_step} must divide the block length "
                f"{self.block_length}, else published schedules are of another length"
            )

    def useful(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens in front of the first that ends the output."""
        ends = (at for at, token in enumerate(token_ids) if token in self.eos)
        return tuple(token_ids[: next(ends, len(token_ids))])

    def stops_at(self, outputs: Sequence[Sequence[int]]) -> bool:
        """Whether a batch needs no further block: each of its outputs so far has ended."""
        return self.early_stop and all(
            any(token in self.eos for token in output) for output in outputs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Of one prompt."""

    token_ids: tuple[int, ...]
    """Useful ones alone."""

    nfe: int
    """Forwards in which it took part, those that only fill a cache included."""

    rows: int
    """Computed for it over all forwards, padding included."""

    seconds: float
    """From when its work could begin until its output was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Of all prompts, in their order."""

    outputs: tuple[Generated, ...]
    forwards: int
    """Of the model, however many prompts each served."""

    seconds: float

    @property
    def tokens(self) -> int:
        """Useful ones of all prompts."""
        return sum(len(output.token_ids) for output in self.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to decode: a row of the table."""

    name: str
    """Of its own in a comparison."""

    side: str
    """``engine``, ``peer`` (written here from its paper) or ``original`` (the authors' code)."""

    procedure: str
    """Cache and remasking, in the engine's names."""

    batch: int
    run: Callable[[Sequence[Prompt]], Run]
    equal_to: str | None = None
    """Name of the system whose tokens it must give; None if no other decodes so."""

    differs: str = ""
    """What it does otherwise than the system beside it, by design."""
