"""A remasking policy with its arguments in a file, and how they were found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, RequestError
from starr_engine.params import ArgValue

FORMAT: Final = "starr-engine policy"
VERSION: Final = 1
"""Raised when ``policy`` or ``args`` change their meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """What an engine needs of such a file."""

    policy: str
    args: Mapping[str, ArgValue]


def load_policy_args(path: str | Path, policy: str | None = None) -> dict[str, ArgValue]:
    """The arguments in a file that ``starr-engine calibrate`` wrote.

    Args:
        path: The file.
        policy: The policy they are meant for; None takes whichever the file names.

    Raises:
        ConfigError: If the file cannot be read, is of another kind, or is for another policy.

    Examples:
        >>> args = load_policy_args("starr.json", "starr")
        >>> params = SamplingParams(remasking="starr", remasking_args=args)
    """
    found = read_policy_file(Path(path))
    if policy is not None and found.policy != policy:
        raise ConfigError(
            f"{path} holds arguments of the policy {found.policy!r}, not of {policy!r}; "
            f"write {found.policy}@{path}"
        )
    return dict(found.args)


def read_policy_file(path: Path) -> PolicyFile:
    """Read and check a file.

    Raises:
        ConfigError: As :func:`load_policy_args`; or the policy or an argument is not known here.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the policy file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"the policy file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the policy file {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(
            f'{path} is not a policy file: it has no "format": "{FORMAT}"; '
            "`starr-engine calibrate` writes one"
        )
    if content.get("version") != VERSION:
        raise ConfigError(
            f"the policy file {path} has version {content.get('version')!r}, this starr-engine "
            f"reads version {VERSION}; calibrate again with this one"
        )
    policy, args = content.get("policy"), content.get("args")
    if not isinstance(policy, str) or not isinstance(args, dict):
        raise ConfigError(f'{path}: a policy file needs "policy", a text, and "args", an object')
    for name, value in args.items():
        if isinstance(value, list | dict):
            raise ConfigError(
                f"the policy file {path}: args[{name!r}] must be a number, a text, true, false or "
                f"null, got {value!r}"
            )
    try:
        REMASKING_POLICIES.create(policy, args)
    except RequestError as error:
        raise ConfigError(f"the policy file {path}: {error}") from error
    return PolicyFile(policy=policy, args=args)


def policy_record(
    policy: str, args: Mapping[str, ArgValue], how: Mapping[str, object]
) -> dict[str, Any]:
    """The content of a file.

    Args:
        policy: Name of the remasking policy.
        args: Its arguments.
        how: How they were found, by section; JSON values.
    """
    return {"format": FORMAT, "version": VERSION, "policy": policy, "args": dict(args), **how}
