"""docs/serving.md names what the server has, and all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from starr_engine.cli.main import main, make_parser
from starr_engine.serve.metrics import ServerMetrics
from starr_engine.serve.protocol import FleetState
from starr_engine.serve.schemas import ChatBody, CompletionBody
from tests.helpers.servers import running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)
}


def test_every_field_of_a_request_is_named() -> None:
    named = set(re.findall(r"`([a-z_]+)`", SECTIONS["Requests"])) | {"stream_options"}
    fields = {*CompletionBody.model_fields, *ChatBody.model_fields}
    assert fields <= named
    # Roles, values and addresses are the only other words.
    assert named - fields <= {"system", "developer", "assistant"}


def test_every_metric_is_named_and_there() -> None:
    named = set(re.findall(r"`(starr_\w+)(?:{[a-z,]+})?`", SECTIONS["Observe"]))
    with running() as served:
        body = {"prompt": "2 + 3 =", "max_tokens": 8, "cache_probe_rate": 1.0, "cache": "dual"}
        assert httpx.post(f"{served.url}/v1/completions", json=body).status_code == 200
        text = httpx.get(f"{served.url}/metrics").text
    there = re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)
    assert {name for name, _ in there if not name.endswith("_created")} == named


def test_every_error_code_is_in_the_table() -> None:
    codes = set()
    for path in (ROOT / "starr_engine" / "serve").glob("*.py"):
        codes |= set(re.findall(r'code="(\w+)"|"(unsupported_field)"', path.read_text()))
    rows = [line for line in SECTIONS["Responses"].splitlines() if re.match(r"\| [45]", line)]
    named = set(re.findall(r"`([a-z_]+)`", "".join(row.split("|")[2] for row in rows)))
    assert named == {name for pair in codes for name in pair if name}


@pytest.mark.parametrize("section", ["Limits", "Secure", "When things die"])
def test_flags_and_their_defaults_are_those_of_the_command(
    section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SECTIONS[section]
    parsed = vars(make_parser("serve").parse_args(["serve"]))
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    help_text = capsys.readouterr().out
    for flag in re.findall(r"`(--[a-z-]+)`", text):
        assert f"{flag} " in help_text or f"{flag}\n" in help_text, flag
    for flag, default in re.findall(r"^\| `--([a-z-]+)` \| (\d+) \|", text, re.MULTILINE):
        name = {"batch-size": "max_num_requests"}.get(flag, flag.replace("-", "_"))
        assert parsed[name] == int(default), flag


def make_help() -> str:
    run = subprocess.run(
        [sys.executable, "-m", "starr_engine", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_every_metric_of_replicas_is_named() -> None:
    fleet = FleetState(
        replicas=(), num_starting=0, num_draining=0, num_waiting=0, num_deaths=0, num_reruns=0
    )
    text = ServerMetrics().render({}, fleet).decode()
    there = {name for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
             if "replica" in name}  # fmt: skip
    assert there == set(re.findall(r"`(starr_\w+)(?:{[a-z,]+})?`", SECTIONS["Several engines"]))


def test_the_flags_of_replicas_are_named_with_their_defaults() -> None:
    section = SECTIONS["Several engines"]
    args = make_parser("serve").parse_args(["serve"])
    assert f"`--upscale-delay` seconds ({args.upscale_delay:g})" in section
    assert f"`--downscale-delay` ({args.downscale_delay:g})" in section
    for flag in ("replicas", "min-replicas", "max-replicas", "ray-address", "gpus-per-replica",
                 "cpus-per-replica"):  # fmt: skip
        assert f"`--{flag}" in section
