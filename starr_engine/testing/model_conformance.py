"""What the engine relies on in every model family, whoever wrote it.

Letters: T rows, N query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from starr_engine.cache.base import CACHE_POLICIES, EXACT
from starr_engine.errors import ConfigError, RequestError
from starr_engine.llm import LLM
from starr_engine.models.base import DiffusionModel, ModelSpec
from starr_engine.models.loading.loader import build_model, load_model
from starr_engine.params import SamplingParams

_CPU: Final = torch.device("cpu")
_LENGTHS: Final = (1, 9, 2, 33, 17)
_TOLERANCE: Final = 1e-4
"""Largest difference of logits, in units of their standard deviation."""


def check_model(folder: Path, *, generates: bool = True) -> None:
    """Hold a family to the rules, on a small random checkpoint in its published format.

    - meta: the model that the configuration describes takes no memory until it is filled.
    - accounting: every stored tensor fills its part of a parameter and every parameter is filled; a
      checkpoint that lacks a tensor, or has one more, is refused by the tensor's name.
    - dtype: parameters take the dtype asked for, and the logits are finite in it.
    - rows: a request's logits do not depend on the other requests of the batch nor on their order,
      nor on which of its rows are computed over keys and values that are kept.
    - engine: every cache policy that calls itself exact gives the tokens of ``none``, alone and in
      a mixed batch; the others run, or are refused with a reason.

    Args:
        folder: One safetensors file; at most a few million parameters.
        generates: False leaves the engine out.

    Raises:
        AssertionError: Says which rule is broken.
    """
    _check_meta(folder)
    model = load_model(folder, _CPU, torch.float32)
    _check_accounting(folder, model)
    _check_dtype(folder)
    _check_rows(model)
    if generates:
        _check_engine(folder)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)


def _check_meta(folder: Path) -> None:
    on_meta = all(weight.is_meta for weight in build_model(folder).parameters())
    _require(on_meta, "meta: from_files must put every parameter on the meta device")


def _check_accounting(folder: Path, model: DiffusionModel) -> None:
    stored = load_file(folder / "model.safetensors")
    places, parameters = model.tensor_places(), dict(model.named_parameters())
    _require(
        set(places) <= set(stored) <= set(places) | set(model.repeated_parameters),
        "accounting: tensor_places must name the stored tensors",
    )
    filled = dict.fromkeys(parameters, 0)
    for name, place in places.items():
        part = place.of(parameters[place.parameter])
        filled[place.parameter] += part.numel()
        same = torch.equal(part, stored[name].to(part.dtype))
        _require(same, f"accounting: {place.parameter} does not hold {name}")
    for name, count in filled.items():
        covered = count == parameters[name].numel()
        _require(covered, f"accounting: the tensors of {name} must cover it once")
    some = sorted(places)[len(places) // 2]
    lost = {name: tensor for name, tensor in stored.items() if name != some}
    for changed, named in ((lost, some), (stored | {"no.such": torch.zeros(2)}, "no.such")):
        with tempfile.TemporaryDirectory() as parent:
            copy = Path(parent) / "copy"
            shutil.copytree(folder, copy)
            save_file(changed, copy / "model.safetensors")
            try:
                load_model(copy, _CPU, torch.float32)
            except ConfigError as error:
                _require(named in str(error), f"accounting: the refusal must name {named}")
            else:
                _require(False, f"accounting: {named} is lost or extra and was not noticed")


def _check_dtype(folder: Path) -> None:
    model = load_model(folder, _CPU, torch.bfloat16)
    # Some published models keep a few numbers, such as a router's bias, in float32.
    large = (weight for weight in model.parameters() if weight.dim() > 1)
    _require(
        all(weight.dtype is torch.bfloat16 for weight in large),
        "dtype: matrices must have the dtype asked for",
    )
    [logits] = _logits(model, [_ids(model.spec, 9, seed=0)])
    _require(bool(logits.isfinite().all()), "dtype: logits must be finite in bfloat16")
    _require(
        logits.dtype in (torch.bfloat16, torch.float32),
        "dtype: logits must have the model's dtype, or float32",
    )


def _check_rows(model: DiffusionModel) -> None:
    spec = model.spec
    batch = [_ids(spec, length, seed) for seed, length in enumerate(_LENGTHS)]
    alone = [_logits(model, [ids])[0] for ids in batch]
    together = _logits(model, batch)
    turned = _logits(model, batch[::-1])[::-1]
    for length, one, two, three in zip(_LENGTHS, alone, together, turned, strict=True):
        _require(one.shape == (length, spec.vocab_size), "rows: logits must be [T, vocab_size]")
        for other in (two, three):
            _require(_close(one, other), "rows: logits depend on the other requests of the batch")
    ids = batch[3]
    rows = torch.tensor([3, 4, 11, len(ids) - 1])
    partly = _partial_logits(model, ids, rows)
    _require(_close(alone[3][rows], partly), "rows: logits depend on which rows are computed")
    spread = float(alone[3].std())
    _require(spread > 0, "rows: all logits are equal; the checkpoint says nothing")


def _check_engine(folder: Path) -> None:
    llm = LLM(str(folder), dtype="float32", device="cpu", num_threads=1)
    spec = llm.engine.spec
    # The shift of some models needs a token in front, and a prompt ends inside a block.
    prompts = [{"prompt_token_ids": _ids(spec, length, seed=length)} for length in (3, 12, 21)]
    params = SamplingParams(
        max_tokens=19, ignore_eos=True, remasking="threshold", remasking_args={"threshold": 0.5}
    )
    plain = llm.generate(prompts, params.with_overrides({"cache": "none"}))
    for name in CACHE_POLICIES.names():
        policy = CACHE_POLICIES.create(name, {})
        if policy.refusal(spec.mask_block):
            continue
        wanted = params.with_overrides({"cache": name})
        is_exact = policy.label(spec.mask_block) == EXACT
        try:
            outputs = llm.generate(prompts, wanted)
        except RequestError as error:
            _require(not is_exact, f"engine: {name} is exact and is refused: {error}")
            continue
        alone = [llm.generate(prompt, wanted)[0] for prompt in prompts]
        for expected, output, single in zip(plain, outputs, alone, strict=True):
            _require(output.error is None, f"engine: {name} failed: {output.error}")
            same = output.token_ids == single.token_ids
            _require(same, f"engine: {name} gives other tokens in a batch than alone")
            if is_exact:
                same = output.token_ids == expected.token_ids
                _require(same, f"engine: {name} is exact, and its tokens are not those of none")


def _ids(spec: ModelSpec, length: int, seed: int) -> list[int]:
    """Token ids, none of them the mask."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(spec.vocab_size - 1, (length,), generator=generator).tolist()
    return [token + (token >= spec.mask_token_id) for token in ids]


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * max(float(one.std()), 1e-6))


def _visible(spec: ModelSpec, length: int) -> Tensor:
    """Which rows see which, with nothing generated yet: bool [length, length]."""
    block = torch.arange(length) // (spec.mask_block or length)
    return block[None, :] <= block[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention [Q, N, D] of one request."""
    groups = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
    scores = torch.einsum("qnd,lnd->nql", query, key) * query.shape[2] ** -0.5
    odds = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("nql,lnd->qnd", odds, value)


@torch.inference_mode()
def _logits(model: DiffusionModel, batch: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    lengths = [len(ids) for ids in batch]
    bounds = [0, *accumulate(lengths)]
    masks = [_visible(model.spec, length) for length in lengths]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        pieces = zip(pairwise(bounds), masks, strict=True)
        return torch.cat([_attend(query[a:b], key[a:b], value[a:b], m) for (a, b), m in pieces])

    positions = torch.cat([torch.arange(length) for length in lengths])
    input_ids = torch.tensor([token for ids in batch for token in ids])
    logits = model.compute_logits(model(input_ids, positions, attention))
    return list(torch.split(logits, lengths))


@torch.inference_mode()
def _partial_logits(model: DiffusionModel, ids: Sequence[int], rows: Tensor) -> Tensor:
    """Logits of some rows over keys and values of all that were computed before."""
    visible = _visible(model.spec, len(ids))
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keeping(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept[layer] = (key, value)
        return _attend(query, key, value, visible)

    def reusing(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del key, value
        return _attend(query, *kept[layer], visible[rows])

    model(torch.tensor(list(ids)), torch.arange(len(ids)), keeping)
    hidden = model(torch.tensor(list(ids))[rows], rows, reusing)
    return model.compute_logits(hidden)
