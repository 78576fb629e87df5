"""Traces to one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.trace import Trace, trace_to_plain

MAX_TRACES: Final = 3
"""Side by side on one page; beyond it nothing could be read."""

_SCRIPTS: Final = (
    "model.js", "dom.js", "result_card.js", "text_pane.js", "heat_map.js", "curve.js",
    "timeline.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined."""


def render_page(traces: Sequence[Trace]) -> str:
    """The page that shows ``traces`` side by side, stepping together.

    The browser is told to load nothing and to run no script but the page's own, so that no text
    of a prompt or an output can become more than text.

    Args:
        traces: One to three, of one prompt and one canvas length.

    Returns:
        A complete HTML document.

    Raises:
        ConfigError: If there are none or too many, or they are of different prompts.
    """
    check_traces(traces)
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    script = "(() => {\n'use strict';\n" + "\n".join(map(_part, _SCRIPTS)) + "})();\n"
    style = _part("page.css")
    first = traces[0]
    policies = [trace.remasking for trace in traces]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        _part("page.html")
    )
    return template.render(
        title=f"Decoding trace: {' against '.join(policies)}",
        policies=policies,
        prompt=first.prompt_text or f"{first.num_prompt_tokens} token ids",
        facts=_facts(traces),
        content_policy=(
            f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        script=Markup(script),
        data=Markup(_embedded(traces)),
    )


def check_traces(traces: Sequence[Trace]) -> None:
    """Check that one page can show ``traces``.

    Raises:
        ConfigError: If it cannot; says why.
    """
    if not 1 <= len(traces) <= MAX_TRACES:
        raise ConfigError(f"a page shows 1 to {MAX_TRACES} traces, got {len(traces)}")
    first = traces[0]
    for number, trace in enumerate(traces[1:], 2):
        if trace.initial_ids.tolist() != first.initial_ids.tolist():
            raise ConfigError(
                f"trace {number} is of another prompt or canvas length than the first; a page "
                "shows traces of one prompt"
            )


def _facts(traces: Sequence[Trace]) -> dict[str, str]:
    first = traces[0]
    prompt, generated = first.num_prompt_tokens, len(first.initial_ids) - first.num_prompt_tokens
    lengths = {len(step.positions.candidates) for trace in traces for step in trace.steps}
    return {
        "Model": first.model,
        "Cache": _joined(f"{trace.cache}{_args(trace)} ({trace.cache_label})" for trace in traces),
        "Canvas": f"{prompt} prompt tokens, {generated} to generate",
        "Block length": _joined(map(str, sorted(lengths))) or "none decoded",
        "Temperature": _joined(
            "0" if trace.temperature == 0 else f"{trace.temperature:g}, seed {trace.seed}"
            for trace in traces
        ),
    }


def _args(trace: Trace) -> str:
    return "".join(f" {name}={value}" for name, value in trace.cache_args.items())


def _joined(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _embedded(traces: Sequence[Trace]) -> str:
    """JSON in which nothing can end the element that holds it."""
    text = json.dumps([trace_to_plain(trace) for trace in traces], separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _part(name: str) -> str:
    page = resources.files("starr_engine.study").joinpath("trace_page")
    return page.joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
