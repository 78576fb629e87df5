"""Which systems are compared on a model, and which of them must give the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.peers import fast_dllm, llada, sdar, transformers_loop
from benchmarks.peers.asked import Asked, Prompt, Run, System
from benchmarks.peers.dense import DenseForward
from benchmarks.peers.originals import Function, bidirectional_decode, block_causal_decode
from benchmarks.peers.running import Counted, Decode, run_engine, run_peer
from benchmarks.peers.transformers_loop import TransformersForward
from starr_engine.engine.engine import Engine
from starr_engine.params import ArgValue

Originals = Mapping[str, Mapping[str, Function]]
"""By name, the functions of each."""

NO_EARLY_STOP = "no early stop, as published"
OPENING_FORWARD = "one more forward where the first completes a block"
PADDED = "padded to the longest prompt, ends with the slowest"
COMMITS = "forwards of their own to fill the cache with prompt and finished blocks"


def systems_of(
    engine: Engine,
    dense: DenseForward,
    hf: TransformersForward,
    asked: Asked,
    batches: Sequence[int],
    originals: Originals,
) -> list[System]:
    """The engine's rows and its peers'.

    Args:
        engine: Of at least the largest batch.
        dense: What peers compute with.
        hf: What the transformers loop computes with.
        asked: Of all prompts.
        batches: Batch sizes; the first must be 1.
        originals: Loaded ones.
    """
    is_bidirectional = engine.spec.attention_kind == "bidirectional"
    caches = ("prefix", "dual") if is_bidirectional else ("block_causal",)
    systems = _engine_systems(engine, asked, batches, caches)
    fixed, *paced = (system.name for system in systems if system.batch == 1)
    peer = partial(_peer, asked=asked)
    whole = procedure("none", "low_confidence", asked)
    loop = partial(transformers_loop.generate, hf)
    systems.append(peer("transformers_loop", hf, loop, whole, fixed))
    if not is_bidirectional:
        block_wise = partial(sdar.generate, dense)
        systems.append(
            peer("sdar", dense, block_wise, _paced("block_causal", asked), paced[0], COMMITS)
        )
        if functions := originals.get("sdar"):
            decode = block_causal_decode(functions["block_diffusion_generate"], dense)
            note = f"draws tokens, has no greedy mode; {COMMITS}"
            systems.append(
                peer("sdar, original", dense, decode, _paced("block_causal", asked), None, note)
            )
        return systems
    decode = partial(llada.generate, dense)
    systems.append(peer("llada", dense, decode, whole, fixed))
    systems += [
        peer("llada", dense, decode, whole, engine_name(whole, batch), PADDED, batch=batch)
        for batch in batches[1:]
    ]
    if asked.early_stop:
        systems.append(peer("llada, as published", dense, decode, whole, fixed, NO_EARLY_STOP))
    if functions := originals.get("llada"):
        decode = bidirectional_decode(functions["generate"], dense, cached=False)
        systems.append(peer("llada, original", dense, decode, whole, fixed, NO_EARLY_STOP))
    for cache, twin in zip(caches, paced, strict=False):
        how, name = _paced(cache, asked), f"fast_dllm {cache}"
        decode = partial(getattr(fast_dllm, f"{cache}_cache"), dense)
        systems.append(peer(name, dense, decode, how, twin, OPENING_FORWARD))
        note = f"{NO_EARLY_STOP}; {OPENING_FORWARD}"
        if asked.early_stop:
            systems.append(peer(f"{name}, as published", dense, decode, how, twin, note))
        if functions := originals.get("fast_dllm"):
            function = functions[f"generate_with_{cache}_cache"]
            decode = bidirectional_decode(function, dense, cached=True)
            systems.append(peer(f"{name}, original", dense, decode, how, twin, note))
    return systems


def engine_name(how: str, batch: int) -> str:
    """Name of the engine's row of a procedure."""
    return f"engine, {how}, batch {batch}"


def procedure(cache: str, remasking: str, asked: Asked) -> str:
    """Cache and remasking as the table names them."""
    argument = ""
    if remasking == "threshold":
        argument = f" {asked.threshold:g}"
    elif remasking == "low_confidence":
        argument = f", {asked.tokens_per_step} per step"
    return f"{cache}, {remasking}{argument}"


def _paced(cache: str, asked: Asked) -> str:
    return procedure(cache, _parallel(asked), asked)


def _parallel(asked: Asked) -> str:
    return "low_confidence" if asked.threshold is None else "threshold"


def _engine_systems(
    engine: Engine, asked: Asked, batches: Sequence[int], caches: Sequence[str]
) -> list[System]:
    """The fixed pace without a cache, then each cache with the peers' remasking, then STaRR."""
    fixed: dict[str, ArgValue] = {"tokens_per_step": asked.tokens_per_step}
    parallel: dict[str, ArgValue] = (
        fixed if asked.threshold is None else {"threshold": asked.threshold}
    )
    ways: list[tuple[str, str, dict[str, ArgValue]]] = [("none", "low_confidence", fixed)]
    ways += [(cache, _parallel(asked), parallel) for cache in caches]
    if asked.threshold is not None:
        ways.append((caches[-1], "starr", {}))
    systems = []
    for cache, remasking, args in ways:
        how = procedure(cache, remasking, asked)
        note = "another decoding policy: no peer decodes so" if remasking == "starr" else ""
        for batch in batches:
            run = partial(
                run_engine, engine, asked=asked, batch=batch, cache=cache, remasking=remasking,
                remasking_args=args,
            )  # fmt: skip
            systems.append(
                System(
                    name=engine_name(how, batch),
                    side="engine",
                    procedure=how,
                    batch=batch,
                    run=run,
                    equal_to=None if batch == 1 else engine_name(how, 1),
                    differs=note,
                )
            )
    return systems


def _peer(
    name: str,
    forward: Counted,
    decode: Decode,
    how: str,
    equal_to: str | None,
    differs: str = "",
    *,
    asked: Asked,
    batch: int = 1,
) -> System:
    if NO_EARLY_STOP in differs:
        asked = replace(asked, early_stop=False)

    def run(prompts: Sequence[Prompt]) -> Run:
        return run_peer(forward, decode, prompts, asked, batch)

    return System(
        name=f"{name}, batch {batch}",
        side="original" if name.endswith("original") else "peer",
        procedure=how,
        batch=batch,
        run=run,
        equal_to=equal_to,
        differs=differs,
    )
