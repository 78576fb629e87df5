"""The simulated GPU as tests use it; its own tests are in csrc/simt/tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from starr_engine import ops
from tests.helpers import simulated_kernels as helper
from tests.helpers.simulated_kernels import num_launches, simulated, simulated_kernels

SIMT = Path(__file__).parents[2] / "csrc/simt"


def test_ops_run_cuda_kernels_inside_the_context_alone() -> None:
    logits = torch.randn(3, 40)
    before = num_launches()
    expected = ops.logits_statistics(logits)
    assert num_launches() == before
    with simulated_kernels("backward"):
        got = ops.logits_statistics(logits)
    assert num_launches() == before + 1
    assert torch.equal(got.candidate, expected.candidate)
    ops.logits_statistics(logits)
    assert num_launches() == before + 1


def test_every_op_has_a_simulated_one_with_its_signature() -> None:
    registered = (name.split("::") for name in torch._C._dispatch_get_all_op_names())
    names = {name for space, name in registered if space == "starr_engine"}
    assert "starr_step" in names
    for name in names:
        op = getattr(torch.ops.starr_engine, name).default
        schema = str(op._schema).replace("starr_engine::", "starr_simulated::")
        assert str(simulated(op)._schema) == schema


def test_what_a_kernel_does_wrong_raises_and_the_next_call_works() -> None:
    k_cache, v_cache = torch.zeros(2, 2, 4, 1, 8).unbind()
    rows = torch.ones(2, 1, 8)
    store = simulated(torch.ops.starr_engine.store_kv.default)
    with pytest.raises(RuntimeError, match=r"store_kv: store_kv_kernel.*race: thread 0 writes"):
        store(rows, rows, k_cache, v_cache, torch.tensor([3, 3]))  # one slot for two rows
    store(rows, rows, k_cache, v_cache, torch.tensor([3, 4]))
    assert k_cache.sum() == v_cache.sum() == 16


def test_arguments_are_checked_as_on_cuda() -> None:
    with simulated_kernels("forward"), pytest.raises(RuntimeError, match="logits must be"):
        ops.logits_statistics(torch.zeros(3))


def test_without_the_library_it_is_said_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_LIBRARY", Path("absent.so"))
    with pytest.raises(FileNotFoundError, match="run `make simulated`"):
        helper._library.__wrapped__()


def rewritten(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "kernel.cu").write_text(source)
    command = [sys.executable, SIMT / "rewrite.py", tmp_path / "kernel.cu", tmp_path / "kernel.cpp"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_launch_becomes_a_call_and_shared_variables_are_declared(tmp_path: Path) -> None:
    source = "__shared__ int a[2][3], b;\n  fill<int, 4><<<grid,\n   n * 2, 0, stream>>>(p, q);\n"
    assert rewritten(tmp_path, source).returncode == 0
    assert (tmp_path / "kernel.cpp").read_text().split("\n", 2)[2] == (
        '__shared__ int a[2][3], b; ::simt::declare_shared("a", a); '
        '::simt::declare_shared("b", b);\n'
        '  ::simt::launcher("fill<int, 4>", fill<int, 4>, grid,\n   n * 2, 0, stream)(p, q);\n'
    )


def test_a_launch_that_the_rewriting_does_not_know_is_an_error(tmp_path: Path) -> None:
    done = rewritten(tmp_path, "fill<Pack<int>><<<1, 32>>>(p);\n")
    assert done.returncode != 0
    assert "kernel.cu: a launch is written in a way" in done.stderr
