"""Makes C++ of a CUDA source, or bindings for the simulated ops of those for CUDA.

python rewrite.py kernel.cu kernel.cpp
"""

import re
import sys
from pathlib import Path

LAUNCH = re.compile(r"(\w+(?:<[^<>]*>)?)<<<([^;]*?)>>>")
SHARED = re.compile(r"__shared__[^;]*;")
DECLARED = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?=[,;])")
LIBRARY = re.compile(r"(STABLE_TORCH_LIBRARY\w*\()starr_engine(?:, CUDA)?\b")


def launch(match: re.Match[str]) -> str:
    """``kernel<<<grid, block, shared, stream>>>`` becomes what takes the kernel's arguments."""
    kernel, configuration = match.groups()
    return f'::simt::launcher("{kernel}", {kernel}, {configuration})'


def declare(match: re.Match[str]) -> str:
    """Each variable of a ``__shared__`` declaration is made known to the block."""
    names = DECLARED.findall(match.group())
    calls = (f' ::simt::declare_shared("{name}", {name});' for name in names)
    return match.group() + "".join(calls)


def library(match: re.Match[str]) -> str:
    """The simulated ops have a namespace of their own, and take tensors of the CPU."""
    is_implementation = match.group().endswith("CUDA")
    return f"{match.group(1)}starr_simulated" + (", CPU" if is_implementation else "")


def rewrite(text: str, path: str) -> str:
    """The whole file; lines keep their numbers."""
    text = LIBRARY.sub(library, SHARED.sub(declare, LAUNCH.sub(launch, text)))
    text = text.replace("torch::stable::accelerator::DeviceGuard", "simt::DeviceGuard")
    if "<<<" in text:
        raise SystemExit(f"{path}: a launch is written in a way that {__file__} does not know")
    include = '#include "simt/device.hpp"\n' if path.endswith((".cu", ".cuh")) else ""
    return f'{include}#line 1 "{path}"\n{text}'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(rewrite(source.read_text(), str(source)))
