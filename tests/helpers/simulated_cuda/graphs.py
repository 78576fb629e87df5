"""What stands for CUDA graphs: ops are noted while they are captured, and run again on replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.helpers.simulated_cuda.log import Kind
from tests.helpers.simulated_cuda.pinned import GARBAGE
from tests.helpers.simulated_cuda.tensors import tensors_in

if TYPE_CHECKING:
    from tests.helpers.simulated_cuda.dispatch import Dispatcher


@dataclass(frozen=True, slots=True)
class _Call:
    kernel: Callable[..., Any]
    args: Any
    kwargs: dict[str, Any]
    results: list[Tensor]
    """New tensors; every replay fills them."""


class Capture:
    """Calls that a graph holds, with the tensors that they read and write.

    Nothing is to be seen of a capture before the graph is replayed: what is outside of it stays as
    it was, and its own tensors hold garbage.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._own: set[int] = set()

    def run(self, func: Any, kernel: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Note a call; it is only run for the shapes of what it makes."""
        given = {each.untyped_storage()._cdata for each in tensors_in((args, kwargs))}
        if func._schema.is_mutable:
            mutated = {
                each.untyped_storage()._cdata
                for value, argument in _arguments(func, args, kwargs)
                if argument.alias_info is not None and argument.alias_info.is_write
                for each in tensors_in(value)
            }
            if not mutated <= self._own:
                self._calls.append(_Call(kernel, args, kwargs, []))
                return args[0] if func._schema.returns else None
        out = kernel(*args, **kwargs)
        made = [each for each in tensors_in(out) if each.untyped_storage()._cdata not in given]
        self._own |= {each.untyped_storage()._cdata for each in made}
        if not func.is_view:
            self._calls.append(_Call(kernel, args, kwargs, made))
        return out

    def close(self) -> None:
        """Nothing was computed yet."""
        for result in self._calls and [each for call in self._calls for each in call.results]:
            result.untyped_storage().fill_(GARBAGE)

    def replay(self) -> None:
        """Run all calls on what their tensors hold now."""
        for call in self._calls:
            out = call.kernel(*call.args, **call.kwargs)
            if call.results:
                for result, value in zip(call.results, tensors_in(out), strict=True):
                    result.copy_(value)


def _arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for index, argument in enumerate(func._schema.arguments):
        if index < len(args):
            yield args[index], argument
        elif argument.name in kwargs:
            yield kwargs[argument.name], argument


class SimulatedGraph:
    """In place of ``torch.cuda.CUDAGraph``."""

    home: Dispatcher

    def __init__(self) -> None:
        self.capture: Capture | None = None

    def replay(self) -> None:
        """All of it, as one launch."""
        assert self.capture is not None, "nothing was captured"
        self.home.log.queue(Kind.LAUNCH, "CUDAGraph.replay")
        with torch.inference_mode():
            self.capture.replay()


@contextmanager
def capturing(
    graph: SimulatedGraph, pool: object = None, stream: object = None,
    capture_error_mode: str = "global",
) -> Iterator[None]:  # fmt: skip
    """In place of ``torch.cuda.graph``."""
    del pool, stream, capture_error_mode
    home = graph.home
    assert home.capture is None, "a graph is being captured"
    home.wait("graph")
    home.capture = Capture()
    try:
        yield
        home.capture.close()
        graph.capture = home.capture
    finally:
        home.capture = None
