"""Which backend serves what, the reasons given, and what ``auto`` makes of them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from starr_engine.attention import select
from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionBackend, AttentionShape
from starr_engine.attention.requirements import Package, package_reasons
from starr_engine.attention.select import AUTO_ORDER, make_backend, survey
from starr_engine.errors import ConfigError
from tests.helpers.fake_kernels import fake_package, make_gpu_seem_there

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")
GPU = AttentionShape(
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    page_size=256,
    dtype=torch.bfloat16,
    device=torch.device("cuda"),
)


def reasons(name: str, shape: AttentionShape) -> list[str]:
    return ATTENTION_BACKENDS.get(name).unsupported(shape)


@pytest.mark.parametrize("name", KERNELS)
def test_a_gpu_with_the_package_serves_the_usual_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(name, monkeypatch)
    make_gpu_seem_there(monkeypatch)
    for changes in ({}, {"dtype": torch.float16}, {"head_dim": 64}, {"num_kv_heads": 32}):
        assert reasons(name, replace(GPU, **changes)) == []


@pytest.mark.parametrize("name", KERNELS)
def test_every_reason_is_given_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(name, monkeypatch)
    make_gpu_seem_there(monkeypatch, capability=(7, 5))
    odd = replace(GPU, num_kv_heads=5, head_dim=300, dtype=torch.float32)
    sizes = "64, 128 or 256" if name == "flashinfer" else "a multiple of 8 up to 256"
    assert reasons(name, odd) == [
        "compute capability must be 8.0 or higher, got 7.5",
        "dtype must be bfloat16 or float16, got float32",
        f"head size must be {sizes}, got 300",
        "32 query heads must be a multiple of 5 key heads",
    ]


@pytest.mark.parametrize("name", KERNELS)
def test_a_missing_device_is_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(name, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reasons(name, replace(GPU, device=torch.device("cpu"))) == [
        "device must be cuda, got cpu"
    ]
    assert reasons(name, GPU) == [f"torch {torch.__version__} finds no CUDA device"]


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("flash_attn", "flash_attn is not installed: pip install 'flash-attn>=2.8'"),
        ("flashinfer", "flashinfer is not installed: pip install 'flashinfer-python>=0.6'"),
        ("xformers", "xformers is not installed: pip install 'xformers>=0.0.33'"),
    ],
)
def test_a_missing_package_is_a_reason_beside_the_others(
    name: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    make_gpu_seem_there(monkeypatch)
    assert reasons(name, GPU) == [install]
    assert reasons(name, replace(GPU, dtype=torch.float32))[1:] == [install]


def test_an_older_torch_is_told_from_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen_attn(query: object, *, enable_gqa: bool, seqused_k: object) -> None: ...

    make_gpu_seem_there(monkeypatch)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert reasons("torch_varlen", GPU) == [
        "torch.nn.attention.varlen.varlen_attn has no argument block_table, num_splits: "
        "torch 2.13 or newer"
    ]


def test_a_package_that_is_broken_or_other_than_expected_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = Package(module="odd_kernels", install="get it", functions={"ops.attend": ("bias",)})
    module = ModuleType("odd_kernels")
    monkeypatch.setitem(sys.modules, "odd_kernels", module)
    assert package_reasons(package) == ["odd_kernels.ops.attend is not there: get it"]
    monkeypatch.setitem(sys.modules, "odd_kernels", None)  # as an import that fails
    (reason,) = package_reasons(package)
    assert reason.startswith("odd_kernels cannot be imported: ModuleNotFoundError")


def test_nothing_is_imported_where_the_device_rules_a_backend_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_import = importlib.import_module

    def refuse(name: str) -> ModuleType:
        if not name.startswith("starr_engine"):
            raise AssertionError(f"{name} was imported")
        return own_import(name)

    for name in KERNELS:
        fake_package(name, monkeypatch)
    monkeypatch.setattr("importlib.import_module", refuse)
    cpu = replace(GPU, device=torch.device("cpu"))
    assert make_backend("auto", cpu).name == "sdpa"


@pytest.mark.parametrize("name", KERNELS)
def test_remarks_say_when_pages_are_copied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ATTENTION_BACKENDS.get(name)
    in_place, copied = (backend.remarks(replace(GPU, page_size=size)) for size in (256, 32))
    assert "reads with gaps (suffix windows) are copied out of their pages" in in_place
    if name == "flashinfer":
        assert copied == in_place
    else:
        assert "the rows that are read are copied out of their pages" in copied
        assert "page_size=256 would be read in place" in copied


def test_xformers_copies_head_sizes_that_its_paged_kernels_do_not_serve() -> None:
    remarks = ATTENTION_BACKENDS.get("xformers").remarks(replace(GPU, head_dim=96))
    assert "the rows that are read are copied out of their pages" in remarks
    assert "page_size=256 would be read in place" not in remarks


class _Fake:
    def __init__(self, shape: AttentionShape) -> None:
        del shape


def test_auto_takes_the_first_that_serves_and_passes_its_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = {name: type(name, (_Fake,), {"name": name}) for name in AUTO_ORDER}
    unable = {"flashinfer"}
    failing = {"torch_varlen"}
    for name, backend in serving.items():
        said = ["no"] if name in unable else []
        backend.unsupported = classmethod(lambda cls, shape, said=said: said)  # type: ignore[attr-defined]
    monkeypatch.setattr(select.ATTENTION_BACKENDS, "get", lambda name: serving[name])

    def trial(backend: type[AttentionBackend], shape: AttentionShape) -> str | None:
        return "its trial is off" if backend.name in failing else None

    monkeypatch.setattr(select, "trial_problem", trial)
    with pytest.warns(UserWarning, match="'torch_varlen' is passed over: its trial is off"):
        assert make_backend("auto", GPU).name == "flash_attn"
    with pytest.raises(ConfigError, match="'torch_varlen' cannot serve this model: its trial is"):
        make_backend("torch_varlen", GPU)
    unable |= {"torch_varlen", "flash_attn", "xformers"}
    for name in unable:
        serving[name].unsupported = classmethod(lambda cls, shape: ["no"])  # type: ignore[attr-defined]
    failing |= {"sdpa", "reference"}  # these are never tried
    assert make_backend("auto", GPU).name == "sdpa"


def test_a_survey_names_all_backends_in_the_order_of_auto() -> None:
    found = survey(replace(GPU, device=torch.device("cpu"), dtype=torch.float32))
    assert tuple(each.name for each in found) == AUTO_ORDER
    assert sorted(AUTO_ORDER) == ATTENTION_BACKENDS.names()
    for each in found:
        assert bool(each.reasons) == (each.name in KERNELS)
        assert not (each.reasons and each.remarks)
