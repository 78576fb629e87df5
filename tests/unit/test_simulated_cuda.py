"""The stand-in for a GPU refuses what a GPU refuses, and sees what the host waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine import ops
from tests.helpers.simulated_cuda import HazardError, Kind, SimulatedCuda, simulated_cuda

if torch.version.cuda is not None:
    pytest.skip("torch has CUDA itself", allow_module_level=True)

CUDA = torch.device("cuda")


@pytest.fixture
def device() -> Iterator[SimulatedCuda]:
    with simulated_cuda() as device:
        yield device


def kinds(device: SimulatedCuda, run: Callable[[], object]) -> list[Kind]:
    with device.log.record() as recorded:
        run()
    return [event.kind for event in recorded.events]


def test_nothing_is_left_behind() -> None:
    before = torch.cuda.Event, torch.Generator, threading.Thread.run
    with simulated_cuda():
        assert torch.cuda.is_available()
        assert torch.ones(2, device="cuda").device == torch.device("cuda:0")
    assert not torch.cuda.is_available()
    assert (torch.cuda.Event, torch.Generator, threading.Thread.run) == before
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(2, device="cuda")


def test_results_are_those_of_the_cpu(device: SimulatedCuda) -> None:
    here = torch.randn(5, 7)
    there = here.to(CUDA)
    assert there.device.type == "cuda"
    for compute in (
        lambda x: x @ x.T + 1,
        lambda x: x.softmax(-1).topk(3).indices,
        lambda x: torch.cat([x[:2], x[3:]]).clone().masked_fill_(x[:1] > 0, 2.0),
        lambda x: x.view(7, 5).index_select(0, (x.view(-1)[:2] > 0).long()),
    ):
        assert torch.equal(compute(there).cpu(), compute(here))
    view = there[1:3]
    view += 1
    assert torch.equal(there.cpu()[1:3], here[1:3] + 1)


def test_tensors_of_two_devices_do_not_mix(device: SimulatedCuda) -> None:
    there, here = torch.ones(3, 3, device=CUDA), torch.ones(3, 3)
    index = torch.tensor([0, 1])
    refused: list[Callable[[], object]] = [
        lambda: there + here,
        lambda: here.add_(there),
        lambda: here.add_(there[0, 0]),
        lambda: torch.tensor(1.0).add_(there[0, 0]),
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there[0, 0], torch.tensor(1.0)]),
        lambda: there.index_select(0, index),
        lambda: there.gather(0, index[None]),
        lambda: there.index_put((index.to(CUDA),), here[:2]),
        lambda: here[index.to(CUDA)],
        lambda: torch.nn.functional.linear(there, here),
        lambda: torch.nn.functional.embedding(index, there),
        lambda: ops.logits_statistics(there, 0) and ops.gather_rows(there[None], index),
        lambda: torch.rand(2, device=CUDA, generator=torch.Generator()),
    ]
    for run in refused:
        with pytest.raises(RuntimeError, match=r"same device|'cuda' generator"):
            run()
    assert torch.rand(2, device=CUDA, generator=torch.Generator("cuda")).device.type == "cuda"


def test_single_numbers_of_the_host_are_taken(device: SimulatedCuda) -> None:
    there = torch.ones(3, device=CUDA)
    number = torch.tensor(2.0)
    assert kinds(device, lambda: there * number + 1) == [Kind.LAUNCH] * 2
    assert kinds(device, lambda: torch.where(there > 0, there, number)) == [Kind.LAUNCH] * 2


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x),
    "mask": lambda x: x[x.bool()],
    "put where a mask is": lambda x: x.index_put((x.bool(),), x[:3]),
    "masked select": lambda x: x.masked_select(x.bool()),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x.float(), x.float()),
    "repeat": lambda x: x.repeat_interleave(x),
    "slice": lambda x: torch.arange(4)[x[0] :],
    "index of the host": lambda x: x[torch.tensor([0, 1])],
    "tensor": lambda x: torch.tensor([1, 2], device=CUDA),
    "new tensor": lambda x: x.new_tensor([1, 2]),
    "pageable memory": lambda x: torch.from_numpy(np.ones(3)).to(CUDA, non_blocking=True),
    "pinned memory, waited for": lambda x: torch.ones(3).pin_memory().to(CUDA),
    "pinned memory of another dtype": lambda x: x.copy_(torch.ones(3).pin_memory(), True),
    "to pageable memory": lambda x: torch.empty(3, dtype=x.dtype).copy_(x, non_blocking=True),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "stream": lambda x: torch.cuda.current_stream().synchronize(),
}
NO_WAITS: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x + 1).cumsum(0).argmax(),
    "fill where a mask is": lambda x: x.__setitem__(x > 5, 3),
    "repeat to a size that is known": lambda x: x.repeat_interleave(x, output_size=3),
    "index": lambda x: x[x.clamp(0, 2)],
    "sort": lambda x: x.sort(),
    "split": lambda x: x.split([1, 2])[0].view(1, 1).expand(3, 3) + 1,
    "factories": lambda x: torch.arange(3, device=CUDA) + x.new_zeros(3) + torch.full_like(x, 2),
    "pinned memory": lambda x: torch.ones(3).pin_memory().to(CUDA, non_blocking=True),
    "to pinned memory": lambda x: torch.empty(3, dtype=x.dtype, pin_memory=True).copy_(x, True),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_the_host_waits_for_is_seen(device: SimulatedCuda, name: str) -> None:
    there = torch.ones(3, dtype=torch.int64, device=CUDA)
    assert Kind.WAIT in kinds(device, lambda: WAITS[name](there))


@pytest.mark.parametrize("name", NO_WAITS)
def test_what_it_does_not_wait_for_is_no_wait(device: SimulatedCuda, name: str) -> None:
    there = torch.ones(3, dtype=torch.int64, device=CUDA)
    found = kinds(device, lambda: NO_WAITS[name](there))
    assert found
    assert Kind.WAIT not in found


def test_an_event_is_waited_for_once_and_not_for_what_follows(device: SimulatedCuda) -> None:
    x = torch.ones(3, device=CUDA)
    first, second = torch.cuda.Event(), torch.cuda.Event()
    first.record()
    x = x + 1
    second.record()
    x = x + 1
    with device.log.record() as recorded:
        second.synchronize()
        first.synchronize()
    [wait] = recorded.of(Kind.WAIT)
    assert wait.behind == 1


def test_a_pinned_source_must_stay_until_the_host_has_waited(device: SimulatedCuda) -> None:
    source = torch.ones(3).pin_memory()
    there = source.to(CUDA, non_blocking=True)
    torch.cuda.synchronize()
    source.fill_(2)
    assert there.tolist() == [1, 1, 1]
    there.copy_(source, non_blocking=True)
    source.numpy()[1] = 5
    with pytest.raises(HazardError, match="changed under way"):
        torch.cuda.synchronize()


def test_a_download_holds_garbage_until_it_was_waited_for(device: SimulatedCuda) -> None:
    target = torch.empty(3, pin_memory=True)
    array = target.numpy()
    target.copy_(torch.ones(3, device=CUDA), non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    assert not copied.query()
    assert (array != 1).all()
    with pytest.raises(HazardError, match="still on its way"):
        target.sum()
    with pytest.raises(HazardError, match="still on its way"):
        target.numpy()
    copied.synchronize()
    assert copied.query()
    assert array.tolist() == [1, 1, 1]


def test_a_graph_reads_its_tensors_at_every_replay(device: SimulatedCuda) -> None:
    given, taken = torch.zeros(3, device=CUDA), torch.zeros(3, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = given * 2
        taken.copy_(doubled + 1)
    assert taken.tolist() == [0, 0, 0]
    assert doubled.tolist() != [0, 0, 0]  # nothing was computed yet
    for number in (1.0, 4.0):
        given.fill_(number)
        graph.replay()
        assert taken.tolist() == [2 * number + 1] * 3


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.sum().item(),
        lambda x: x.copy_(torch.ones(3).pin_memory(), non_blocking=True),
        lambda x: torch.empty(3, pin_memory=True).copy_(x, non_blocking=True),
        lambda x: torch.tensor([1], device=CUDA),
    ],
    ids=["item", "upload", "download", "tensor"],
)
def test_a_graph_holds_neither_waits_nor_copies_from_the_host(
    device: SimulatedCuda, run: Callable[[Tensor], object]
) -> None:
    x = torch.ones(3, device=CUDA)
    with (
        pytest.raises(RuntimeError, match=r"capturing|host's memory"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        run(x)
    assert x.tolist() == [1, 1, 1]


def test_memory_is_counted_once_for_all_views(device: SimulatedCuda) -> None:
    before = torch.cuda.memory_allocated()
    x = torch.ones(1000, device=CUDA)
    views = [x[:10], x.view(10, 100)]
    assert torch.cuda.memory_allocated() == before + 4096
    del x
    assert torch.cuda.memory_allocated() == before + 4096
    views.clear()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 4096


def test_other_threads_see_the_device(device: SimulatedCuda) -> None:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device=CUDA) + 1))
    thread.start()
    thread.join()
    assert found[0].tolist() == [2, 2]
