"""Replicas on Ray give the tokens of one engine, whatever happens to the processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.util import placement_group_table

from starr_engine import LLM, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.distributed import Replicas
from starr_engine.distributed.application import serve_replicas
from starr_engine.distributed.replicated import ReplicatedLLM
from starr_engine.distributed.serve_app import AppArgs, build
from starr_engine.serve.protocol import FleetState
from tests.helpers.ray_jobs import LIMIT_S, MARK, marked_processes, small_ray, wait_for
from tests.helpers.servers import Running, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


PORT = free_port()
"""Of Serve's own HTTP."""

CHECK_S = 0.25
"""Between two questions after a replica's health, so that a death is seen at once."""

# One token a step: long enough to be met while it runs.
FIELDS = {"max_tokens": 160, "remasking": "low_confidence", "ignore_eos": True, "temperature": 0.7}
PROMPTS = [f"Put in falling order: {i}, 25, 18, 73, 60" for i in range(10)]


@pytest.fixture(scope="module")
def engine() -> Iterator[ReplicatedLLM]:
    config = EngineConfig(model="tiny-sdar", device="cpu")
    with small_ray(num_cpus=4):
        serve.start(http_options={"port": PORT})
        two = Replicas(count=2, cpus_per_replica=1, check_interval_s=CHECK_S)
        with serve_replicas(config, two) as made:
            yield made


@pytest.fixture(scope="module")
def served(engine: ReplicatedLLM) -> Iterator[Running]:
    with running(engine, fleet=engine) as server:
        yield server


def state(engine: ReplicatedLLM) -> FleetState:
    return asyncio.run(engine.fleet())


def wait_for_both(engine: ReplicatedLLM) -> None:
    wait_for(lambda: len(state(engine).replicas) == 2, "two replicas")


def assert_all_given_back(engine: ReplicatedLLM) -> FleetState:
    wait_for(
        lambda: all(
            each.num_requests == 0
            and each.stats.num_running + each.stats.num_waiting == 0
            and each.stats.num_free_pages == each.stats.num_pages
            for each in state(engine).replicas
        ),
        "all pages",
    )
    return state(engine)


def ask(served: Running, number: int) -> str:
    """The text of one answer; every second one is streamed."""
    body = FIELDS | {"prompt": PROMPTS[number], "seed": number, "stream": bool(number % 2)}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    if not number % 2:
        return str(answer.json()["choices"][0]["text"])
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events.pop() == "[DONE]", answer.text
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    llm = LLM("tiny-sdar", device="cpu", num_threads=1)
    params = [SamplingParams(**FIELDS, seed=number) for number in range(len(PROMPTS))]
    return [output.text for output in llm.generate(PROMPTS, params)]


def test_replicas_give_the_outputs_of_one_engine(engine: ReplicatedLLM):
    llm = LLM("tiny-sdar", device="cpu", num_threads=1)
    many = SamplingParams(max_tokens=16, temperature=0.8, n=3, seed=4)
    messages = [{"role": "user", "content": PROMPTS[0]}]

    async def calls() -> Any:
        return await asyncio.gather(
            engine.generate(PROMPTS[0], many), engine.chat(messages, SamplingParams(max_tokens=16))
        )

    samples, answer = asyncio.run(calls())
    assert [each.token_ids for each in samples.samples] == [
        each.token_ids for each in llm.generate(PROMPTS[0], many)[0].samples
    ]
    expected = llm.chat(messages, SamplingParams(max_tokens=16))[0]
    assert answer.token_ids == expected.token_ids
    with pytest.raises(ValueError, match="max_tokens"):
        asyncio.run(engine.generate(PROMPTS[0], SamplingParams(max_tokens=5000)))


def test_equal_prefixes_meet_in_one_replica(engine: ReplicatedLLM):
    wait_for_both(engine)
    before = {each.name: each.stats for each in assert_all_given_back(engine).replicas}
    prompt = list(range(20, 20 + 128))

    async def calls() -> None:
        for _ in range(3):
            await engine.generate({"prompt_token_ids": prompt}, SamplingParams(max_tokens=16))

    asyncio.run(calls())
    after = {each.name: each.stats for each in assert_all_given_back(engine).replicas}
    hits = [after[name].prefix_hits - before[name].prefix_hits for name in before]
    assert sorted(hits) == [0, 2 * (128 // engine.config.page_size)]


def test_a_replica_killed_under_load_costs_no_request_and_no_token(
    engine: ReplicatedLLM, served: Running, expected: list[str]
):
    wait_for_both(engine)
    before = state(engine)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        calls = [pool.submit(ask, served, number) for number in range(len(PROMPTS))]
        wait_for(
            lambda: min(each.num_requests for each in state(engine).replicas) >= 2,
            "load on both replicas",
        )
        doomed = asyncio.run(engine.reports())[0]
        os.kill(doomed.process_id, signal.SIGKILL)
        texts = [call.result() for call in calls]
    assert texts == expected
    wait_for(lambda: doomed.name not in [each.name for each in state(engine).replicas], "the death")
    wait_for_both(engine)
    after = assert_all_given_back(engine)
    assert after.num_deaths == before.num_deaths + 1
    assert after.num_reruns > before.num_reruns
    metrics = httpx.get(f"{served.url}/metrics").text
    assert f"starr_replica_deaths_total {after.num_deaths}.0" in metrics
    for each in after.replicas:
        assert f'starr_engine_pages_free{{replica="{each.name}"}}' in metrics


def test_a_client_that_goes_ends_its_request_in_the_replica(engine: ReplicatedLLM, served: Running):
    body = FIELDS | {"prompt": PROMPTS[0], "stream": True, "max_tokens": 448}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
        assert next(answer.iter_lines()).startswith("data: {")
    after = assert_all_given_back(engine)
    assert sum(each.stats.num_aborted for each in after.replicas) == 1


def test_a_split_model_has_a_bundle_for_each_rank_and_the_tokens_of_one(
    engine: ReplicatedLLM, expected: list[str]
):
    config = EngineConfig(model="tiny-sdar", device="cpu", tensor_parallel_size=2)
    one = Replicas(count=1, cpus_per_replica=2, check_interval_s=CHECK_S)
    with serve_replicas(config, one) as split:
        (group,) = [each for each in placement_group_table().values() if each["state"] == "CREATED"]
        assert (group["strategy"], group["bundles"]) == (
            "STRICT_PACK", {0: {"CPU": 1.0}, 1: {"CPU": 1.0}},
        )  # fmt: skip
        params = SamplingParams(**FIELDS, seed=0)
        assert asyncio.run(split.generate(PROMPTS[0], params)).text == expected[0]
        # Ranks are out of step without one of them: the whole replica is replaced.
        (first,) = asyncio.run(split.reports())
        (rank,) = rank_processes()
        os.kill(rank, signal.SIGKILL)
        output = asyncio.run(split.generate(PROMPTS[0], params))
        assert output.text == expected[0]
        (second,) = asyncio.run(split.reports())
        assert second.name != first.name and rank_processes() != [rank]
    wait_for(lambda: not rank_processes(), "the end of the ranks")


def rank_processes() -> list[int]:
    """Of this machine's actors that are ranks."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and b"_Rank" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_the_application_for_clusters_answers_over_http_and_survives_a_death(
    engine: ReplicatedLLM, expected: list[str]
):
    args = AppArgs(
        model="tiny-sdar", device="cpu", replicas=1, cpus_per_replica=1, fronts=1, no_auth=True
    )
    serve.run(build(args), name="cluster", route_prefix="/")
    try:
        url = f"http://127.0.0.1:{PORT}"
        assert httpx.get(f"{url}/ready").status_code == 200
        body = FIELDS | {"prompt": PROMPTS[1], "seed": 1, "stream": True}
        pieces = []
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=LIMIT_S) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    if not pieces:
                        handle = serve.get_deployment_handle("Engine", "cluster")
                        (doomed,) = handle.broadcast("report").results()
                        os.kill(doomed.process_id, signal.SIGKILL)
                    pieces.append(json.loads(line[6:])["choices"][0]["text"])
        assert "".join(pieces) == expected[1]
        assert "starr_replica_reruns_total 1.0" in httpx.get(f"{url}/metrics").text
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: {")
        wait_for(
            lambda: (
                'requests_total{end="aborted"' in (text := httpx.get(f"{url}/metrics").text)
                and re.search(r'requests_total{end="aborted",replica="\w+"} 1.0', text)
            ),
            "the end of what nobody reads",
        )
    finally:
        serve.delete("cluster")


class Command:
    """``serve --replicas 1`` as it is typed."""

    def __init__(self, *more: str) -> None:
        self.mark = uuid.uuid4().hex
        words = ["serve", "--model", "tiny-sdar", "--port", "0", "--replicas", "1",
                 "--cpus-per-replica", "1", "--device", "cpu", *more]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "starr_engine", *words],
            cwd=ROOT, text=True, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, MARK: self.mark},
        )  # fmt: skip

    def url(self) -> str:
        """Once it listens."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"listening"' in line:
                return f"http://127.0.0.1:{json.loads(line)['port']}"
        raise AssertionError("the server has not come up")

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def commands() -> Iterator[tuple[Command, Command]]:
    """Two, each with a Ray of its own, which start side by side."""
    with Command() as first, Command() as second:
        yield first, second


def test_the_command_drains_at_sigterm_and_leaves_no_process(commands: tuple[Command, Command]):
    command, _ = commands
    with ThreadPoolExecutor(1) as pool:
        url = command.url()
        body = FIELDS | {"prompt": PROMPTS[0]}
        call = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=LIMIT_S)
        with httpx.Client(base_url=url) as http:
            wait_for(
                lambda: "starr_http_requests_in_progress 1.0" in http.get("/metrics").text, "it"
            )
        command.process.send_signal(signal.SIGTERM)
        assert call.result().status_code == 200
        _, err = command.process.communicate(timeout=LIMIT_S)
        assert command.process.returncode == 0, err
        assert "Traceback" not in err
        wait_for(lambda: not marked_processes(command.mark), "the processes to end")


def test_replicas_end_with_a_server_that_is_killed(commands: tuple[Command, Command]):
    _, command = commands
    command.url()
    assert any("Replica" in line for line in marked_processes(command.mark))
    command.process.kill()
    # Agents of Ray, which hold no model, may stay for a minute.
    wait_for(
        lambda: all("Agent" in line for line in marked_processes(command.mark)),
        "the processes to end",
    )


def test_replicas_on_a_cluster_end_with_a_server_that_is_killed(engine: ReplicatedLLM):
    before = set(serve.status().applications)
    with Command("--ray-address", ray.get_runtime_context().gcs_address) as command:
        command.url()
        assert len(serve.status().applications) == len(before) + 1
        command.process.kill()
        wait_for(lambda: set(serve.status().applications) == before, "the application to end")
    assert len(state(engine).replicas) == 2, "the other one goes on"
