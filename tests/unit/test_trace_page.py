"""The page of a trace: one file, well formed, nothing fetched, and texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from starr_engine import ConfigError, SamplingParams, Trace
from starr_engine.cli.main import main
from starr_engine.study.trace_html import render_page
from starr_engine.trace import trace_from_plain
from tests.helpers.engines import make_llm
from tests.helpers.word_models import write_word_model

VOID = {"meta", "link", "input", "br"}
HOSTILE = '</script><script>alert(1)</script> <!-- & "quotes" \u2028'
FLAGS = ["--max-tokens", "16", "--block-length", "8", "--ignore-eos"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def traces(model: str) -> list[Trace]:
    params = SamplingParams(max_tokens=16, block_length=8, ignore_eos=True, trace=True)
    llm = make_llm(Path(model))
    found = [llm.generate("w1 w2", replace(params, remasking=name))[0].trace
             for name in ("starr", "threshold", "low_confidence")]  # fmt: skip
    return [trace for trace in found if trace is not None]


class Page(HTMLParser):
    """Tags that match, every attribute, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.raw.append((self.open[-1], self.tags[-1][1], data))
        else:
            self.words += data

    @property
    def traces(self) -> list[Trace]:
        [data] = [text for tag, attrs, text in self.raw if attrs.get("id") == "traces"]
        return [trace_from_plain(plain) for plain in json.loads(data)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_page_is_well_formed_and_holds_the_traces(traces: list[Trace], count: int) -> None:
    page = Page(render_page(traces[:count]))
    assert [trace.to_json() for trace in page.traces] == [t.to_json() for t in traces[:count]]
    assert "w1 w2" in page.words
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [attrs[key] for _, attrs in page.tags for key in ("aria-labelledby", "for")
             if key in attrs]  # fmt: skip
    assert set(named) <= set(ids)


def test_the_page_asks_for_nothing_from_anywhere(traces: list[Trace]) -> None:
    text = render_page(traces)
    assert set(re.findall(r"https?://[^\"'\s]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    page = Page(text)
    sources = [attrs[key] for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    assert all(source in ("data:,", "#canvas-heading") for source in sources)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_the_browser_may_run_the_pages_own_script_and_nothing_else(traces: list[Trace]) -> None:
    page = Page(render_page(traces))
    [policy] = [attrs["content"] for tag, attrs in page.tags
                if attrs.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        [body] = [text for found, attrs, text in page.raw if found == tag and not attrs.get("type")]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert set(rules["img-src"].split()) == {"data:"}


def test_a_prompt_that_looks_like_markup_is_only_text(traces: list[Trace]) -> None:
    hostile = replace(
        traces[0],
        prompt_text=HOSTILE,
        text=HOSTILE,
        model=HOSTILE,
        token_texts=dict.fromkeys(traces[0].token_texts, HOSTILE),
    )
    clean = Page(render_page([traces[0]]))
    page = Page(render_page([hostile]))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    assert HOSTILE in page.words
    assert [trace.to_json() for trace in page.traces] == [hostile.to_json()]


def test_traces_of_different_prompts_share_no_page(traces: list[Trace]) -> None:
    other = replace(traces[1], initial_ids=traces[1].initial_ids[:-1])
    with pytest.raises(ConfigError, match="trace 2 is of another prompt"):
        render_page([traces[0], other])
    for wrong in ([], [traces[0]] * 4):
        with pytest.raises(ConfigError, match=f"1 to 3 traces, got {len(wrong)}"):
            render_page(wrong)


def test_the_command_writes_the_page_and_the_traces(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], traces: list[Trace]
) -> None:
    html, saved, again = tmp_path / "page.html", tmp_path / "traces.json", tmp_path / "again.html"
    code = main(["trace", "--model", model, "--prompt", "w1 w2", *FLAGS,
                 "--against", "threshold:threshold=0.5", "--against", "low_confidence",
                 "--output", str(html), "--json", str(saved)])  # fmt: skip
    assert code == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(": NFE")[0] for line in shown] == [
        "starr", "threshold:threshold=0.5", "low_confidence",
    ]  # fmt: skip
    assert "NFE 16, TPF 1.00" in shown[2]
    found = Page(html.read_text(encoding="utf-8")).traces
    assert [dict(trace.remasking_args) for trace in found] == [{}, {"threshold": 0.5}, {}]
    assert found[0].final_ids.tolist() == traces[0].final_ids.tolist()
    assert main(["trace", "--from-json", str(saved), "--output", str(again)]) == 0
    assert again.read_bytes() == html.read_bytes()
    one = tmp_path / "one.json"
    one.write_text(traces[0].to_json(), encoding="utf-8")
    assert main(["trace", "--from-json", str(one), str(one), "--output", str(again)]) == 0


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--prompt", "w1"], "give --output FILE"),
        (["--prompt", "w1", "--against", "treshold"], "did you mean 'threshold'"),
        (["--prompt", "w1", "--against", "threshold:0.9"], "--against takes NAME=VALUE"),
        (["--prompt", "w1", "--against", "threshold:tau=1"], "no argument 'tau'"),
        (["--prompt", "w1", *["--against", "threshold"] * 3], "a page shows 3 policies"),
        (["--prompt", "<mask>"], "mask token"),
        (["--prompt", "w1", "--from-json", "x.json"], "leave --prompt"),
        (["--from-json", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], problem: str
) -> None:
    page = tmp_path / "page.html"
    output = [] if problem.startswith("give") else ["--output", str(page)]
    assert main(["trace", "--model", model, *FLAGS, *argv, *output]) == 2
    shown = capsys.readouterr().err
    assert problem in shown
    assert shown.count("\n") == 1
    assert not page.exists()


def test_a_page_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], traces: list[Trace]
) -> None:
    saved = tmp_path / "one.json"
    saved.write_text(traces[0].to_json(), encoding="utf-8")
    nowhere = tmp_path / "none" / "page.html"
    assert main(["trace", "--from-json", str(saved), "--output", str(nowhere)]) == 2
    assert "cannot be written" in capsys.readouterr().err
