"""Flags for what may be generated, how it is drawn, and what is told about it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams

_DEFAULTS: Final = SamplingParams()
_COPIED: Final = (
    "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "n",
    "logprobs", "min_tokens", "suppress_eos", "eos_last", "include_stop_str_in_output",
    "skip_special_tokens",
)  # fmt: skip


def add_candidate_options(parser: argparse.ArgumentParser) -> None:
    """Flags of :func:`candidate_fields`."""
    _add_drawing(parser.add_argument_group("drawing, at a temperature above 0"))
    _add_logits(parser.add_argument_group("logits, at any temperature"))
    _add_ends(parser.add_argument_group("end of the output"))


def candidate_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of ``SamplingParams`` from the flags of :func:`add_candidate_options`.

    Raises:
        ConfigError: If a bias is not ID=VALUE, or an id comes twice.
    """
    return {name: getattr(args, name) for name in _COPIED} | {
        "logit_bias": parse_bias(args.logit_bias),
        "bad_words": tuple(args.bad_words),
        "allowed_token_ids": args.allowed_token_ids,
    }


def parse_bias(entries: Sequence[str]) -> dict[int, float]:
    """``["17=-100", "4=2.5"]`` -> ``{17: -100.0, 4: 2.5}``.

    Raises:
        ConfigError: If an entry is not ID=VALUE, or an id comes twice.
    """
    bias: dict[int, float] = {}
    for entry in entries:
        token, _, value = entry.partition("=")
        try:
            parsed = int(token), float(value)
        except ValueError:
            raise ConfigError(f"--logit-bias takes ID=VALUE, got {entry!r}") from None
        if parsed[0] in bias:
            raise ConfigError(f"--logit-bias {token} is given twice")
        bias[parsed[0]] = parsed[1]
    return bias


def _add_drawing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--top-p",
        type=float,
        metavar="MASS",
        default=_DEFAULTS.top_p,
        help="only the most probable tokens that hold this mass (default: %(default)s, off)",
    )
    group.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        default=_DEFAULTS.top_k,
        help="only the K most probable tokens (default: %(default)s, off)",
    )
    group.add_argument(
        "--min-p",
        type=float,
        metavar="FRACTION",
        default=_DEFAULTS.min_p,
        help="only tokens this fraction as probable as the best (default: %(default)s, off)",
    )
    group.add_argument(
        "--n",
        type=int,
        metavar="SAMPLES",
        default=_DEFAULTS.n,
        help="samples, each with a seed of its own (default: %(default)s)",
    )


def _add_logits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="FACTOR",
        default=_DEFAULTS.repetition_penalty,
        help="against tokens of prompt and output (default: %(default)s, off)",
    )
    for name, times in (("presence", "once"), ("frequency", "each time they stand there")):
        group.add_argument(
            f"--{name}-penalty",
            type=float,
            metavar="LOGIT",
            default=getattr(_DEFAULTS, f"{name}_penalty"),
            help=f"taken off the logits of output tokens, {times} (default: %(default)s, off)",
        )
    group.add_argument(
        "--logit-bias",
        metavar="ID=VALUE",
        action="append",
        default=[],
        help="added to the logit of a token id, from -100 to 100; repeatable",
    )
    group.add_argument(
        "--bad-word",
        dest="bad_words",
        metavar="TEXT",
        action="append",
        default=[],
        help="tokens that never stand together in the output; repeatable",
    )
    group.add_argument(
        "--allowed-token-id",
        dest="allowed_token_ids",
        type=int,
        metavar="ID",
        action="append",
        help="the only token ids that may be generated; repeatable (default: all)",
    )
    group.add_argument(
        "--logprobs",
        type=int,
        metavar="K",
        default=_DEFAULTS.logprobs,
        help="tell each token's log-probability when it was unmasked, and K alternatives; shown "
        "in JSON and files (default: none)",
    )


def _add_ends(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-tokens",
        type=int,
        metavar="TOKENS",
        default=_DEFAULTS.min_tokens,
        help="nothing ends the output before (default: %(default)s)",
    )
    group.add_argument("--suppress-eos", action="store_true", help="never generate EOS")
    group.add_argument(
        "--eos-last", action="store_true", help="unmask EOS and stop tokens after all others"
    )
    group.add_argument(
        "--include-stop-str-in-output",
        action="store_true",
        help="keep the --stop text that ended the output",
    )
    group.add_argument(
        "--keep-special-tokens",
        dest="skip_special_tokens",
        action="store_false",
        help="show special tokens in the text",
    )
