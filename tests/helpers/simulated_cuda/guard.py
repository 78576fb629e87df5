"""The only compiled part: it lets a CPU build of torch hold tensors that say they are on CUDA."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("guard.cpp")
_FOLDER = Path(__file__).parents[3] / "build" / "simulated_cuda"


def load_guard() -> None:
    """Compile it if nobody has, which takes seconds, and load it for the rest of the process.

    Raises:
        CalledProcessError: If the compiler does not like it.
    """
    described = f"{torch.__version__} {_SOURCE.read_text()} {Path(__file__).read_text()}"
    library = _FOLDER / f"guard-{hashlib.sha256(described.encode()).hexdigest()[:16]}.so"
    if str(library) in torch.ops.loaded_libraries:
        return
    if not library.exists():
        _compile(library)
    torch.ops.load_library(library)


def _compile(library: Path) -> None:
    """Another process may do the same meanwhile: the file appears whole."""
    library.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(torch.__file__).parent
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        made = Path(name) / library.name
        subprocess.run(
            [
                compiler, "-std=c++20", "-O1", "-fPIC", "-shared", f"-I{folder / 'include'}",
                str(_SOURCE), "-o", str(made), f"-L{folder / 'lib'}", "-lc10",
            ],
            check=True,
        )  # fmt: skip
        made.replace(library)
