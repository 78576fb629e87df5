"""A stand-in for a loaded model in studies: what a setting costs and solves is a formula.

A prompt is a text such as ``q37``, one token per character. A ``threshold`` of 0.37 or more answers
it with the prompt itself, and so does any other policy; a lower one answers ``no``. A threshold
takes ``4 + 10 * threshold`` forwards, others 20; a forward of cache ``none`` computes 10 rows, of
others 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError, RequestError
from starr_engine.outputs import CacheDrift, FinishReason, RequestOutput
from starr_engine.params import Args, SamplingParams
from starr_engine.study.grid.bench import Bench, MakeBench


class FakeTokenizer:
    def encode(self, text: str) -> list[int]:
        return [ord(each) for each in text]

    encode_part = encode

    def encode_chat(self, messages):
        raise NotImplementedError


@dataclass
class FakeStats:
    num_steps: int
    num_pages: int = 100
    num_free_pages: int = 100


class FakeEngine:
    """One step finishes the oldest request; ``dllm`` is refused."""

    def __init__(self, config: EngineConfig, before_step: Callable[[], None]) -> None:
        self.config = config
        self._before_step = before_step
        self._requests: dict[str, tuple[tuple[int, ...], SamplingParams]] = {}
        self._num_steps = 0

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
    ) -> str:
        if params.cache == "dllm":
            raise RequestError("cache='dllm': this fake refuses it")
        assert request_id is not None and request_id not in self._requests
        self._requests[request_id] = (tuple(prompt_token_ids), params)
        assert len(self._requests) <= self.config.max_num_requests
        return request_id

    def step(self) -> list[RequestOutput]:
        self._before_step()
        request_id = next(iter(self._requests))
        prompt, params = self._requests.pop(request_id)
        self._num_steps += 1
        text, nfe = answer(prompt, params)
        probed = bool(params.cache_probe_rate)
        return [
            RequestOutput(
                request_id=request_id,
                prompt_token_ids=prompt,
                token_ids=tuple(ord(each) for each in text),
                text=text,
                finish_reason=FinishReason.LENGTH,
                nfe=nfe,
                num_unmasked=20,
                computed_rows=nfe * (10 if params.cache == "none" else 4),
                cache_label="exact" if params.cache == "none" else "approximate: fake",
                latency_s=0.5,
                num_refreshes=0 if params.cache == "none" else 1,
                drift=CacheDrift(probe_forwards=1, rows_compared=4, flip_rate=0.25, mean_kl=0.5,
                                 max_kl=1.0, mean_confidence_error=0.1, max_confidence_error=0.2)
                if probed else None,
            )
        ]  # fmt: skip

    def abort(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def stats(self) -> FakeStats:
        return FakeStats(self._num_steps, num_free_pages=100 - len(self._requests))


def answer(prompt: tuple[int, ...], params: SamplingParams) -> tuple[str, int]:
    text = "".join(map(chr, prompt))
    if params.remasking != "threshold":
        return text, 20
    threshold = float(params.remasking_args.get("threshold", 0.9))  # type: ignore[arg-type]
    difficulty = int(text[1:]) / 100 if text[1:].isdigit() else 0.0
    return (text if difficulty <= threshold else "no"), 4 + int(10 * threshold)


def fake_benches(
    *, before_step: Callable[[], None] = lambda: None, opened: list[str] | None = None
) -> MakeBench:
    """What makes fakes; a model named ``missing`` cannot be loaded."""

    def make(model: str, batch_size: int, options: Args) -> Bench:
        if opened is not None:
            opened.append(model)
        if model == "missing":
            raise ConfigError("no such model")
        config = EngineConfig.from_options(model=model, max_num_requests=batch_size, **options)
        return Bench(
            engine=FakeEngine(config, before_step), get_tokenizer=FakeTokenizer, page_bytes=1000
        )

    return make


def write_questions(path: Path, count: int = 10) -> Path:
    """Questions of every difficulty, as a task's file."""
    names = [f"q{at * 100 // count}" for at in range(count)]
    path.write_text("".join(f'{{"prompt": "{n}", "reference": "{n}"}}\n' for n in names))
    return path
