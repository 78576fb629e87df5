"""Flags for gaps and templates."""

from __future__ import annotations

import argparse
import json
from typing import Any

from starr_engine.errors import ConfigError


def add_infill_options(parser: argparse.ArgumentParser) -> None:
    """Flags that become a prompt with a gap or a template."""
    group = parser.add_argument_group(
        "infilling", "instead of --max-tokens, these say how many tokens to generate"
    )
    group.add_argument("--prefix", metavar="TEXT", help="what stands in front of the gap")
    group.add_argument("--suffix", metavar="TEXT", help="what stands behind the gap")
    group.add_argument(
        "--gap",
        metavar="N|LOW:HIGH",
        help="tokens of the gap, or a range of which the best of up to 16 lengths is taken",
    )
    group.add_argument(
        "--template",
        metavar="JSON",
        help="what stands behind the prompt: fixed texts and numbers of tokens to generate, as in "
        '\'["Name: ", 4, "\\nAge: ", 2]\'',
    )


def infill_prompt(args: argparse.Namespace) -> dict[str, Any] | None:
    """The prompt that the flags of :func:`add_infill_options` ask for; None without such flags.

    Raises:
        ConfigError: If a flag cannot be read.
    """
    names = ("prompt", "prefix", "suffix", "gap", "template")
    prompt = {name: value for name in names if (value := getattr(args, name)) is not None}
    if prompt.keys() <= {"prompt"}:
        return None
    if "gap" in prompt:
        prompt["gap"] = _parse_gap(prompt["gap"])
    if "template" in prompt:
        try:
            prompt["template"] = json.loads(prompt["template"])
        except ValueError as error:
            raise ConfigError(f"--template must be a JSON list: {error}") from error
    return prompt


def _parse_gap(text: str) -> int | list[int]:
    try:
        ends = [int(end) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise ConfigError(f"--gap takes a number of tokens or LOW:HIGH, got {text!r}")
    return ends[0] if len(ends) == 1 else ends
