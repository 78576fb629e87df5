"""Builds the compiled half of starr_engine with CMake; all metadata is in pyproject.toml.

Environment:
    STARR_CUDA        auto (default: if nvcc is found) | 1 (fail without nvcc) | 0
    STARR_CUDA_ARCHS  CMake architecture list, default 80-real;90a-real;100-real;120
    CUDA_HOME         toolkit to use, default /usr/local/cuda
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The environment's own cmake and ninja go before those of the system.
PATH = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))


def find_nvcc() -> str | None:
    mode = os.environ.get("STARR_CUDA", "auto")
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"STARR_CUDA must be auto, 0 or 1, got {mode!r}")
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc", path=f"{toolkit}/bin{os.pathsep}{PATH}")
    if nvcc is None and mode == "1":
        raise SystemExit("STARR_CUDA=1 but nvcc was not found; set CUDA_HOME")
    return nvcc if mode != "0" else None


class CMakeBuild(build_ext):
    """One CMake build for both extensions, then a copy to where setuptools wants them."""

    def run(self) -> None:
        cmake, ninja = (shutil.which(tool, path=PATH) for tool in ("cmake", "ninja"))
        torch, nanobind = (find_spec(package) for package in ("torch", "nanobind"))
        if not (cmake and ninja and torch and nanobind):
            raise SystemExit("the build needs: pip install cmake ninja nanobind torch")
        # One folder per interpreter, whoever asks for the build, so that it stays incremental.
        build = ROOT / "build" / sys.implementation.cache_tag
        settings = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "nanobind_DIR": Path(nanobind.origin).parent / "cmake",
            "STARR_TORCH": Path(torch.origin).parent,
            "STARR_CUDA": "ON" if (nvcc := find_nvcc()) else "OFF",
        }
        if nvcc:
            archs = os.environ.get("STARR_CUDA_ARCHS", "80-real;90a-real;100-real;120")
            settings |= {"CMAKE_CUDA_COMPILER": nvcc, "CMAKE_CUDA_ARCHITECTURES": archs}
        configure = [cmake, "--fresh", "--log-level=WARNING", "-G", "Ninja", "-S", ROOT / "csrc"]
        configure += ["-B", build, *(f"-D{key}={value}" for key, value in settings.items())]
        # ninja configures again by itself when a CMake file changes, but not when a setting does.
        wanted, stamp = "\n".join(map(str, configure)), build / "configured.txt"
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"configuring in {build}, CUDA {f'by {nvcc}' if nvcc else 'off'}", flush=True)
            subprocess.run(configure, check=True)
            stamp.write_text(wanted)
        subprocess.run([cmake, "--build", build], check=True)
        package = (ROOT if self.inplace else Path(self.build_lib).resolve()) / "starr_engine"
        package.mkdir(parents=True, exist_ok=True)
        for built in (*build.glob("_core*.so"), build / "_core.pyi", build / "_ops.so"):
            # Replaced, not overwritten: a running process may have the old file mapped.
            partial = shutil.copy2(built, package / f"{built.name}.partial")
            partial.replace(package / built.name)


extensions = [Extension(f"starr_engine.{name}", []) for name in ("_core", "_ops")]
setup(ext_modules=extensions, cmdclass={"build_ext": CMakeBuild})
