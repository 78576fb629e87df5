"""Pinned memory, and copies between it and the device that the host has not waited for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

GARBAGE = 0xA5
"""Every byte of memory that a copy will fill, until the host has waited for it."""


class HazardError(AssertionError):
    """The host did what would be a race on a GPU."""


@dataclass(frozen=True, slots=True)
class _Upload:
    """From memory that must stay as it is."""

    source: Tensor
    then: Tensor
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class _Download:
    """To memory that holds nothing yet."""

    target: Tensor
    data: Tensor
    number: int


class PinnedMemory:
    """Which storages are pinned, and what is on its way from or to them."""

    def __init__(self) -> None:
        # A weak reference keeps a storage's address from being another's.
        self._pinned: dict[int, StorageWeakRef] = {}
        self._uploads: list[_Upload] = []
        self._downloads: list[_Download] = []

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor, whose memory is pinned from now on."""
        for address in [key for key, each in self._pinned.items() if each.expired()]:
            del self._pinned[address]
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether its memory was pinned."""
        return tensor.untyped_storage()._cdata in self._pinned

    def upload(self, source: Tensor, number: int, name: str) -> None:
        """A copy from it was queued, as the so-many-th thing."""
        self._uploads.append(_Upload(source, source.clone(), number, name))

    def download(self, target: Tensor, data: Tensor, number: int) -> None:
        """A copy to it was queued: it has the data once that was waited for."""
        _bytes(target).fill_(GARBAGE)
        self._downloads.append(_Download(target, data.clone(), number))

    def check_read(self, tensors: list[Tensor], name: str) -> None:
        """None of the tensors is still to be filled.

        Raises:
            HazardError: If one is.
        """
        if self._downloads:
            filled = {each.target.untyped_storage()._cdata for each in self._downloads}
            if any(each.untyped_storage()._cdata in filled for each in tensors):
                raise HazardError(f"{name} reads what is still on its way from the device")

    def settle(self, num_done: int) -> None:
        """So many things are done.

        Raises:
            HazardError: If the host has changed what was being copied.
        """
        done = [each for each in self._downloads if each.number <= num_done]
        self._downloads = [each for each in self._downloads if each.number > num_done]
        for each in done:
            each.target.copy_(each.data)
        left = [each for each in self._uploads if each.number <= num_done]
        self._uploads = [each for each in self._uploads if each.number > num_done]
        for upload in left:
            if not torch.equal(_bytes(upload.source), _bytes(upload.then)):
                raise HazardError(f"{upload.name}: its pinned source was changed under way")


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
