"""Whatever is sent to the server, it answers, and never with a failure of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from tests.helpers.servers import Running, running

FUZZ = settings(
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 7, 512, 513, 2**31, 2**63, 10**30, 0.5, 1.0, -0.0, 1e308, 5e-324]
    ),
    st.integers(-3, 40),
    st.floats(0, 2),
)
TEXTS = st.one_of(
    st.sampled_from(["", "2 + 3 =", "<|endoftext|>", "\ud800", "\x00", "é\u202e" * 9]), st.text()
)
ARGS = st.dictionaries(st.sampled_from(["threshold", "k", "refresh", "window", "rho"]), NUMBERS)
NUMERIC = (
    "max_tokens", "n", "seed", "temperature", "top_p", "presence_penalty", "min_p", "top_k",
    "frequency_penalty", "repetition_penalty", "min_tokens", "block_length", "cache_probe_rate",
)  # fmt: skip
FLAGS = (
    "stream", "ignore_eos", "suppress_eos", "eos_last", "provisional", "trace",
    "include_stop_str_in_output", "skip_special_tokens",
)  # fmt: skip
FIELDS = {
    **dict.fromkeys(NUMERIC, NUMBERS),
    **dict.fromkeys(FLAGS, st.booleans()),
    "stop": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
    "bad_words": st.lists(TEXTS, max_size=3),
    "logit_bias": st.dictionaries(st.one_of(TEXTS, NUMBERS.map(str)), NUMBERS, max_size=3),
    "allowed_token_ids": st.lists(NUMBERS, max_size=3),
    "stop_token_ids": st.lists(NUMBERS, max_size=3),
    "remasking": st.sampled_from(["starr", "threshold", "low_confidence", "wino", "klass", ""]),
    "remasking_args": ARGS,
    "cache": st.sampled_from(["none", "dual", "prefix", "dllm", "vicinity", "block_causal"]),
    "cache_args": ARGS,
    "cache_salt": TEXTS,
    "early_exit": st.sampled_from(["prophet", "sched", "x"]),
    "user": TEXTS,
    "stream_options": st.just({"include_usage": True}),
}
SHORT = {"max_tokens": st.just(8)}
PROMPTS = st.one_of(
    st.just("2 + 3 ="), TEXTS, st.lists(TEXTS, max_size=3), st.lists(NUMBERS, max_size=4)
)


def bodies(
    base: dict[str, st.SearchStrategy[Any]], fields: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """A request with a few fields: with many, one of them is nearly always refused at once."""
    some = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return some.flatmap(
        lambda names: st.fixed_dictionaries(base | {name: fields[name] for name in names})
    )


COMPLETIONS = bodies(
    SHORT | {"prompt": PROMPTS},
    FIELDS
    | {
        "suffix": TEXTS,
        "gap": st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3)),
        "template": st.lists(st.one_of(TEXTS, NUMBERS, st.lists(NUMBERS, max_size=2)), max_size=3),
        "logprobs": NUMBERS,
    },
)
CHATS = bodies(
    SHORT
    | {"messages": st.tuples(st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}))},
    FIELDS | {"logprobs": st.booleans(), "top_logprobs": NUMBERS},
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def test_the_openapi_document_holds_no_request_that_breaks_the_server(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(operation.label)

        @FUZZ
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error])

        check()
    assert {"POST /v1/completions", "POST /v1/chat/completions", "GET /metrics"} <= seen
    server.wait_until_idle()


@pytest.mark.parametrize(
    ("path", "requests"), [("/v1/completions", COMPLETIONS), ("/v1/chat/completions", CHATS)]
)
def test_extreme_values_of_known_fields_are_answered_or_refused(
    server: Running, client: httpx.Client, path: str, requests: st.SearchStrategy[dict[str, Any]]
) -> None:
    @settings(FUZZ, max_examples=120)
    @given(body=requests)
    def check(body: dict[str, Any]) -> None:
        sent = json.dumps(body)
        answer = client.post(path, content=sent, headers={"content-type": "application/json"})
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 400, 404), answer.text
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
        else:
            assert '"error":{' not in answer.text

    statuses: Counter[int] = Counter()
    check()
    assert statuses[200] > 20  # the fuzz gets past the checks
    stats = server.wait_until_idle()
    assert stats.num_failed == 0


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[" * 100_000, b'{"prompt": 1e999}', b"\xff\xfe", b"null", b'"x"', b"[]",
        b'{"prompt": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_request_are_refused(client: httpx.Client, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
