"""The official client against a real server: what it gets is what the library gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from starr_engine import LLM, AsyncLLM, RequestOutput, SamplingParams, __version__
from tests.helpers.servers import Running, running

PROMPT = "Put in falling order: 2, 25, 18, 73, 60"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
SETTING: dict[str, Any] = {"block_length": 16, "remasking": "low_confidence", "cache": "none"}
PARAMS = SamplingParams(max_tokens=32, **SETTING)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("tiny-llada", num_threads=1)


@pytest.fixture(scope="module")
def expected(llm: LLM) -> RequestOutput:
    return llm.generate(PROMPT, PARAMS)[0]


def complete(client: OpenAI, **fields: Any) -> Any:
    """A completion of PROMPT, with this engine's fields in the extra body."""
    known = {"n", "seed", "stop", "logprobs", "logit_bias", "suffix", "temperature", "stream"}
    given = {"prompt": PROMPT, "max_tokens": 32, "model": "tiny-llada"}
    given |= {name: value for name, value in fields.items() if name in known | given.keys()}
    extra = {name: value for name, value in fields.items() if name not in given}
    return client.completions.create(**given, extra_body=SETTING | extra)


def test_a_completion_is_the_librarys_output_with_its_cost(client, expected):
    got = complete(client)
    assert got.choices[0].text == expected.text
    assert got.choices[0].finish_reason == str(expected.finish_reason) == "stop"
    assert got.choices[0].cache_label == expected.cache_label == "exact"
    assert got.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert got.usage.completion_tokens == len(expected.token_ids)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.usage.denoising_steps == expected.nfe
    assert got.usage.tokens_per_forward == expected.tpf
    assert got.model == "tiny-llada"


def test_a_chat_goes_through_the_template(client, llm):
    [output] = llm.chat(MESSAGES, PARAMS)
    got = client.chat.completions.create(
        model="tiny-llada", messages=MESSAGES, max_completion_tokens=32, extra_body=SETTING
    )
    assert got.choices[0].message.content == output.text
    assert got.choices[0].message.role == "assistant"
    assert got.usage.prompt_tokens == len(output.prompt_token_ids)
    parts = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    same = client.chat.completions.create(
        model="tiny-llada", messages=parts, max_tokens=32, extra_body=SETTING
    )
    assert same.choices[0].message.content == output.text


def test_streamed_blocks_join_to_the_text_and_the_last_chunk_is_the_usage(client, expected):
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    *pieces, ending, usage = chunks
    assert "".join(piece.choices[0].text for piece in pieces) == expected.text
    assert [piece.choices[0].block_index for piece in pieces] == list(range(len(pieces)))
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * len(pieces)
    assert ending.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage.denoising_steps == expected.nfe
    assert {chunk.id for chunk in chunks} == {usage.id}
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_streamed_chat_says_who_speaks_and_then_what(client, llm):
    [output] = llm.chat(MESSAGES, PARAMS)
    chunks = list(
        client.chat.completions.create(
            model="tiny-llada", messages=MESSAGES, max_tokens=32, stream=True, extra_body=SETTING
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == output.text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)


def test_samples_differ_by_seed_and_keep_their_order(client, llm):
    params = SamplingParams(max_tokens=16, temperature=1.5, seed=7, n=3, **SETTING)
    [first] = llm.generate(PROMPT, params)
    texts = [sample.text for sample in first.samples]
    asked = {"max_tokens": 16, "temperature": 1.5, "seed": 7, "n": 3}
    got = complete(client, **asked)
    assert [choice.text for choice in got.choices] == texts
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert got.usage.prompt_tokens == len(first.prompt_token_ids)
    joined = ["", "", ""]
    for chunk in complete(client, stream=True, **asked):
        joined[chunk.choices[0].index] += chunk.choices[0].text
    assert joined == texts


def test_without_a_seed_two_samplings_differ_and_two_greedy_ones_do_not(client):
    hot = [complete(client, temperature=9.0, ignore_eos=True) for _ in range(2)]
    assert hot[0].choices[0].text != hot[1].choices[0].text
    assert len({complete(client).choices[0].text for _ in range(2)}) == 1


def test_many_prompts_give_their_choices_in_order(client, llm):
    prompts = [PROMPT, "2 + 3 =", "Write as JSON: In Delhi there is a pilot named Sara."]
    texts = [output.text for output in llm.generate(prompts, PARAMS)]
    assert [choice.text for choice in complete(client, prompt=prompts).choices] == texts
    joined = [""] * len(prompts)
    for chunk in complete(client, prompt=prompts, stream=True):
        joined[chunk.choices[0].index] += chunk.choices[0].text
    assert joined == texts
    ids = [llm.tokenizer.encode(prompt) for prompt in prompts]
    assert [choice.text for choice in complete(client, prompt=ids).choices] == texts
    assert complete(client, prompt=ids[0]).choices[0].text == texts[0]


def test_a_stop_string_ends_the_text_in_front_of_it(client, expected):
    assert ", " in expected.text
    got = complete(client, stop=[","])
    assert got.choices[0].text == expected.text.partition(",")[0]
    assert got.choices[0].finish_reason == "stop"


def test_a_text_that_is_cut_off_says_so(client):
    assert complete(client, ignore_eos=True).choices[0].finish_reason == "length"


def test_a_bias_changes_what_is_generated(client, llm, expected):
    token = expected.token_ids[0]
    got = complete(client, logit_bias={str(token): -100})
    assert got.choices[0].text == llm.generate(
        PROMPT, SamplingParams(max_tokens=32, logit_bias={token: -100}, **SETTING)
    )[0].text  # fmt: skip
    assert got.choices[0].text != expected.text


def test_logprobs_are_those_of_the_output_whole_or_streamed(client, llm):
    params = SamplingParams(max_tokens=32, logprobs=2, **SETTING)
    [output] = llm.generate(PROMPT, params)
    whole = complete(client, logprobs=2).choices[0].logprobs
    assert whole.token_logprobs == [token.logprob for token in output.logprobs]
    assert whole.tokens == [llm.tokenizer.token_text(token) for token in output.token_ids]
    assert [len(tops) for tops in whole.top_logprobs] == [2] * len(output.token_ids)
    pieces = [chunk.choices[0].logprobs for chunk in complete(client, logprobs=2, stream=True)]
    streamed = [each for piece in pieces if piece for each in piece.token_logprobs]
    assert streamed == whole.token_logprobs
    offsets = [each for piece in pieces if piece for each in piece.text_offset]
    assert offsets == whole.text_offset


def test_logprobs_of_a_chat_have_alternatives_and_bytes(client, llm):
    [output] = llm.chat(MESSAGES, PARAMS)
    got = client.chat.completions.create(
        model="tiny-llada", messages=MESSAGES, max_tokens=32, logprobs=True, top_logprobs=3,
        extra_body=SETTING,
    )  # fmt: skip
    content = got.choices[0].logprobs.content
    assert len(content) == len(output.token_ids)
    assert all(len(each.top_logprobs) == 3 for each in content)
    assert all(bytes(each.bytes).decode() == each.token for each in content)


def test_a_suffix_makes_a_gap_of_max_tokens_or_of_what_gap_says(client, llm):
    front = 'JSON for this: Carla works in London as a cook.{"name": "Carla", "city": "'
    back = '", "job": "cook"}<|endoftext|>'
    one = complete(client, prompt=front, suffix=back, max_tokens=1)
    assert (one.choices[0].text, one.choices[0].finish_reason) == ("London", "length")
    best = complete(client, prompt=front, suffix=back, gap=[1, 4])
    assert (best.choices[0].text, best.choices[0].gap_length) == ("London", 1)
    assert best.usage.denoising_steps > one.usage.denoising_steps


def test_a_template_fills_its_slots(client):
    parts = ['{"name": "', 1, '", "city": "', 1, '", "job": "', 1, '"}<|endoftext|>']
    prompt = "JSON for this: Carla works in London as a cook."
    got = complete(client, prompt=prompt, template=parts)
    assert got.choices[0].slots == ["Carla", "London", "cook"]


def test_provisional_blocks_are_events_of_their_own_and_fill_up(server, client, expected):
    body = {"prompt": PROMPT, "max_tokens": 32, "stream": True, "provisional": True} | SETTING
    event, seen, text = None, [], ""
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: {"):
                data = json.loads(line.removeprefix("data: "))
                if event == "provisional":
                    seen.append(data)
                else:
                    text += data["choices"][0]["text"]
                event = None
    assert text == expected.text
    assert seen
    assert all(len(each["tokens"]) == 16 for each in seen)
    assert all(
        (token is None) == (name is None)
        for each in seen
        for token, name in zip(each["token_ids"], each["tokens"], strict=True)
    )
    assert any(None in each["tokens"] for each in seen)
    # The official client takes them for chunks that add nothing.
    plain = complete(client, stream=True, provisional=True)
    texts = [chunk.choices[0].text for chunk in plain if chunk.choices]
    assert "".join(texts) == expected.text


def test_a_trace_has_every_step(client, expected):
    trace = complete(client, trace=True).choices[0].trace
    assert len(trace["steps"]) == expected.nfe
    *_, ending = complete(client, trace=True, stream=True)
    assert len(ending.choices[0].trace["steps"]) == expected.nfe


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"best_of": 4}, "best_of", "samples are not ranked"),
        ({"response_format": {"type": "json_object"}}, "response_format", "grammar"),
        ({"echo": True}, "echo", "not scored"),
        ({"max_tokns": 4}, "max_tokns", "did you mean 'max_tokens'"),
        ({"temperature": -1.0}, "temperature", ">= 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"n": 2}, "n", "temperature above 0"),
        ({"n": 17, "temperature": 1.0}, "n", "allows 16"),
        ({"prompt": ["a"] * 17}, "prompt", "allows 16"),
        ({"prompt": ""}, None, "the prompt is empty"),
        ({"prompt": "<|mdm_mask|>"}, None, "mask token"),
        ({"max_tokens": 10**6}, "prompt", "the model allows 512"),
        ({"remasking": "star"}, None, "did you mean 'starr'"),
        ({"remasking_args": {"x": 1}}, "remasking", "has no argument 'x'"),
        ({"cache": "block_causal"}, "cache", "block_causal"),
        ({"suffix": "x", "gap": 10**12}, "gap", "the model allows 512"),
        ({"template": [10**12]}, "template", "the model allows 512"),
        ({"suffix": "x", "template": [1]}, "template", "cannot be used with"),
        ({"provisional": True}, "provisional", "needs stream"),
        ({"suffix": "x", "gap": [1, 3], "stream": True}, None, "cannot be streamed"),
    ],
)
def test_what_cannot_run_is_refused_with_the_fields_name(client, fields, param, said):
    with pytest.raises(openai.BadRequestError) as caught:
        list(complete(client, **fields))
    assert said in caught.value.message
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_values_that_ask_for_nothing_are_taken(client, expected):
    got = complete(
        client, best_of=1, echo=False, tools=[], response_format={"type": "text"}, user="u",
        guided_json=None,
    )  # fmt: skip
    assert got.choices[0].text == expected.text


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served") as caught:
        complete(client, model="gpt-9")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_the_model_is_listed_with_the_policies_it_takes(client):
    [model] = client.models.list().data
    assert model.id == "tiny-llada"
    assert client.models.retrieve("tiny-llada") == model
    assert {"starr", "threshold"} <= set(model.remasking)
    assert {"auto", "dual", "none"} <= set(model.cache)
    assert "block_causal" not in model.cache
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_stream_that_the_client_closes_gives_its_pages_back(server, client):
    before = server.stats().num_aborted
    with complete(client, max_tokens=480, ignore_eos=True, stream=True) as chunks:
        next(iter(chunks))
    stats = server.wait_until_idle()
    assert stats.num_aborted == before + 1
    assert stats.num_free_pages == stats.num_pages


def test_small_addresses_say_how_the_server_is(server, client):
    complete(client)
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/health").json() == http.get("/ready").json() == {"status": "ok"}
        assert http.get("/version").json() == {"version": __version__}
        text = http.get("/metrics").text
    assert 'starr_http_requests_total{route="/v1/completions",status="200"}' in text
    for name in ("steps_total", "refreshes_total", "requests_waiting", "pages_free"):
        assert f"starr_engine_{name}" in text
    for name in ("choice_tokens_per_forward", "choice_forwards", "http_request_seconds"):
        assert f"starr_{name}_bucket" in text


def test_the_probes_drift_is_in_the_answer_and_in_the_metrics(server, client):
    got = complete(client, cache="dual", cache_probe_rate=1.0)
    assert got.choices[0].drift["probe_forwards"] > 0
    assert "starr_engine_drift_mean_kl" in httpx.get(f"{server.url}/metrics").text


def test_the_servers_defaults_hold_where_a_request_is_silent(llm):
    defaults = SamplingParams(max_tokens=24, remasking="threshold", remasking_args={"threshold": 1})
    engine = AsyncLLM("tiny-llada", num_threads=1)
    with closing(engine), running(engine, defaults=defaults, served_model="m") as served:
        address = f"{served.url}/v1/completions"
        got = httpx.post(address, json={"prompt": PROMPT}).json()
        assert got["choices"][0]["text"] == llm.generate(PROMPT, defaults)[0].text
        assert got["usage"]["denoising_steps"] == 24
        # Another policy does not inherit the arguments of the default one.
        other = httpx.post(address, json={"prompt": PROMPT, "remasking": "starr"})
        assert other.status_code == 200
