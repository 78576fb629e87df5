"""One token per step on a set of prompts, kept in a file: it is the costly part of a study."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starr_engine.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOutputs:
    """The outputs of one setting on one problem set, in the order of the problems."""

    token_ids: Sequence[tuple[int, ...]]
    texts: Sequence[str]
    nfe: Sequence[int]
    num_unmasked: Sequence[int]

    wall_s: float
    """Seconds for the whole set."""

    computed_rows: Sequence[int] = ()
    """Of each problem; empty in files of references that were written before it was kept."""

    cache_label: str = ""
    """``exact``, or ``approximate: <why>``; empty in such files."""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens, EOS and what follows left out, per second."""
        return sum(map(len, self.token_ids)) / self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What a file of references holds."""

    by_set: Mapping[str, SetOutputs]

    environment: Mapping[str, Any]
    """Where and when they were made."""


def fingerprint_of(values: Mapping[str, object]) -> str:
    """A short text that changes with any of the values, which are JSON's."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_fingerprint(folder: Path) -> str:
    """Changes with the weights, the configuration or the tokenizer of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
        with path.open("rb") as file:
            digest.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()[:16]


def load_or_make(folder: Path, fingerprint: str, make: Callable[[], References]) -> References:
    """The references of ``fingerprint`` from ``folder``; made and written there if missing.

    Raises:
        ConfigError: If the file is there and cannot be read; it is never overwritten.
    """
    path = folder / f"references-{fingerprint}.json"
    if path.exists():
        return _read(path)
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(asdict(made)) + "\n")
    os.replace(temporary, path)
    return made


def _read(path: Path) -> References:
    try:
        content = json.loads(path.read_text())
        by_set = {
            name: SetOutputs(
                token_ids=[tuple(ids) for ids in each["token_ids"]],
                texts=each["texts"],
                nfe=each["nfe"],
                num_unmasked=each["num_unmasked"],
                wall_s=each["wall_s"],
                computed_rows=tuple(each.get("computed_rows", ())),
                cache_label=each.get("cache_label", ""),
            )
            for name, each in content["by_set"].items()
        }
        return References(by_set=by_set, environment=content["environment"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no file of references ({type(error).__name__}: {error}); remove it"
        ) from error
