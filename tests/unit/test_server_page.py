"""The page at / in a real browser: the canvas fills in, and nothing comes from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

import httpx
import pytest

from starr_engine.serve.keys import parse_keys
from tests.helpers.browser import CHROMIUM, Page, browsing
from tests.helpers.servers import Running, running

KEY = "ann-0123456789abcdef"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not there")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(api_keys=parse_keys(f"ann {KEY}", "test")) as served:
        yield served


@pytest.fixture(scope="module")
def page(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(server.url, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def fill(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.run(f"document.getElementById({name!r}).value = {value!r}; true")


def test_the_page_names_no_other_site_and_forbids_what_it_does_not_need(server):
    answer = httpx.get(server.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    folder = resources.files("starr_engine.serve") / "page"
    for file in folder.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://|innerHTML|\son\w+=|style=", text), file.name
        if file.name != "index.html":
            assert httpx.get(f"{server.url}/page/{file.name}").text == text
    assert httpx.get(f"{server.url}/page/..%2Fapp.py").status_code == 404


def test_a_server_may_have_no_page():
    with running(has_page=False) as served:
        assert httpx.get(served.url).status_code == 404
        assert httpx.get(f"{served.url}/version").status_code == 200


@needs_browser
def test_the_canvas_fills_in_step_by_step_and_ends_with_the_figures(page, tmp_path):
    page.wait("!document.getElementById('key-row').hidden")
    page.run(
        f"const key = document.getElementById('key'); key.value = {KEY!r};"
        "key.dispatchEvent(new Event('change', {bubbles: true})); true"
    )
    page.wait("document.getElementById('remasking').options.length > 5")
    fill(page, max_tokens="32", block_length="16", remasking="low_confidence", pace="150")
    page.run("document.getElementById('run').click(); true")
    page.wait("document.querySelectorAll('#canvas .provisional').length >= 4")
    page.picture(tmp_path / "during.png")
    masks = page.run("document.querySelectorAll('#canvas .mask').length")
    assert 16 < masks < 32
    page.wait("!document.getElementById('run').disabled")
    page.picture(tmp_path / "after.png")
    assert page.run("document.getElementById('canvas').textContent") == "73, 60, 25, 18, 2"
    assert page.run("document.getElementById('status').textContent") == "ended: stop"
    figures = page.run("document.getElementById('figures').innerText")
    assert "16" in figures
    assert "approximate: temporal reuse" in figures
    assert page.run("document.querySelectorAll('#canvas .mask, #canvas .provisional').length") == 0


@needs_browser
def test_a_gap_is_filled_between_its_texts_and_an_error_is_shown(page):
    page.run("document.querySelector('[value=gap]').click(); true")
    front = 'JSON for this: Carla works in London as a cook.{"name": "Carla", "city": "'
    back = '", "job": "cook"}<|endoftext|>'
    fill(page, prompt=front, suffix=back, max_tokens="1", pace="0")
    page.run("document.getElementById('run').click(); true")
    page.wait("document.getElementById('status').textContent.startsWith('ended')")
    assert page.run("document.getElementById('canvas').textContent") == f"{front}London{back}"
    fill(page, cache="none", prompt="<|mdm_mask|>")
    page.run("document.getElementById('run').click(); true")
    page.wait("document.getElementById('status').className === 'bad'")
    assert "mask token" in page.run("document.getElementById('status').textContent")


@needs_browser
def test_stopping_ends_the_request(page, server):
    page.run("document.querySelector('[value=chat]').click(); true")
    fill(page, prompt="2 + 3 =", max_tokens="400", remasking="low_confidence", pace="500")
    page.run("document.getElementById('run').click(); true")
    page.wait("document.querySelectorAll('#canvas .mask').length > 300")
    page.run("document.getElementById('stop').click(); true")
    page.wait("document.getElementById('status').textContent === 'stopped'")
    server.wait_until_idle()
    # The refusals that the tests above have asked for, and nothing else.
    unexpected = [text for text in page.problems if not re.search("status of 40[01]", text)]
    assert unexpected == []
