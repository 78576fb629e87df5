"""The front door: prompts in, outputs out, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.stats import EngineStats
from starr_engine.engine.stream import OutputStream
from starr_engine.errors import RequestError
from starr_engine.infilling import SEAM_PARAMS, Candidates, seam_checks
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.prompts import Message, Prompt, encode_chat, encode_prompt
from starr_engine.samples import join_requests, requests_of, sample_id
from starr_engine.tokenization import Tokenizer


class LLM:
    """A model ready to generate.

    Args:
        model: A shipped model's name, a local folder in the published format, or a hub id.
        **options: Fields of ``EngineConfig``.

    Raises:
        ConfigError: If the model or an option cannot be used.

    Examples:
        >>> llm = LLM("tiny-llada")
        >>> outputs = llm.generate(["Sort: 5 3 9"], SamplingParams(max_tokens=32))
    """

    def __init__(self, model: str = "tiny-llada", **options: Any) -> None:
        self.engine = Engine(EngineConfig.from_options(model=model, **options))

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer.

        Raises:
            RequestError: If the model folder has none.
        """
        if self.engine.tokenizer is None:
            raise RequestError(
                "this model folder has no tokenizer.json; give prompts as prompt_token_ids"
            )
        return self.engine.tokenizer

    def default_sampling_params(self) -> SamplingParams:
        """What ``params=None`` stands for: the defaults and what the checkpoint's files ask for."""
        return SamplingParams().with_overrides(self.engine.spec.generation_defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Generate for all prompts, batched continuously.

        Args:
            prompts: One or many.
            params: For all prompts, or one each; None takes ``default_sampling_params()``.
            use_tqdm: Show a progress bar.

        Returns:
            One output per prompt, in order; with ``n`` above 1 the first sample's, which holds
            the others.

        Raises:
            RequestError: If a prompt cannot run, before any has started; names its index.
        """
        encoded = _encode(
            lambda prompt: encode_prompt(prompt, lambda: self.tokenizer), _as_list(prompts)
        )
        return self._run(encoded, params, use_tqdm=use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Answer one conversation, or many, through the checkpoint's chat template.

        Raises:
            RequestError: As ``generate``, or if the model has no chat template.
        """
        is_one = isinstance(messages, Mapping | str) or (
            len(messages) > 0 and isinstance(messages[0], Mapping)
        )
        many: Sequence[Any] = [messages] if is_one else messages
        encoded = _encode(lambda chat: encode_chat(chat, lambda: self.tokenizer), many)
        return self._run(encoded, params, use_tqdm=use_tqdm)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> OutputStream:
        """Generate, giving each block as it is committed and each output as it finishes.

        Request ids are ``"0"``, ``"1"`` ... in the order of the prompts. With ``n`` above 1 each
        sample comes as a request of its own: prompt 3 gives ``"3"``, ``"3.1"``, ``"3.2"`` ...
        Closing the stream aborts what is unfinished.

        Raises:
            RequestError: As ``generate``, at once and not when the first output is read; or if a
                prompt has a range of gap lengths.
        """
        encoded = _encode(
            lambda prompt: encode_prompt(prompt, lambda: self.tokenizer), _as_list(prompts)
        )
        each = self._one_each(params, len(encoded))
        for index, candidates in enumerate(encoded):
            if len(candidates) > 1:
                raise RequestError(
                    f"prompt {index}: which gap length is taken is known only at the end, so a "
                    "range cannot be streamed; use generate, or give one length"
                )
        return OutputStream(
            self.engine, [name for names in self._add(encoded, each) for name in names]
        )

    def close(self) -> None:
        """End the processes that share a split model; with one rank there are none."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def stats(self) -> EngineStats:
        """What the engine has done since it was made, and what it holds now."""
        return self.engine.stats()

    def _run(
        self,
        prompts: list[Candidates],
        params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        each = self._one_each(params, len(prompts))
        tried = self._outputs(prompts, each, use_tqdm=use_tqdm)
        checks = [seam_checks(*pair) for pair in zip(prompts, tried, strict=True)]
        judged = self._outputs(checks, [SEAM_PARAMS] * len(checks), use_tqdm=False)
        return [join_requests(*parts) for parts in zip(prompts, tried, judged, strict=True)]

    def _outputs(
        self, prompts: list[Candidates], params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[list[RequestOutput]]:
        request_ids = self._add(prompts, params)
        every_id = [request_id for names in request_ids for request_id in names]
        finished: dict[str, RequestOutput] = {}
        with OutputStream(self.engine, every_id) as stream:
            outputs = (output for output in stream if isinstance(output, RequestOutput))
            if use_tqdm:
                from tqdm import tqdm

                outputs = tqdm(outputs, total=len(every_id), unit="request")
            for output in outputs:
                finished[output.request_id] = output
        return [[finished[request_id] for request_id in names] for names in request_ids]

    def _add(self, prompts: list[Candidates], params: list[SamplingParams]) -> list[list[str]]:
        """The ids of the requests of every prompt; its index is the id of the first."""
        if self.engine.has_unfinished:
            raise RequestError(
                "another call of this LLM is not finished; read its stream to the end or close it"
            )
        added: list[list[str]] = []
        for index, (candidates, wanted) in enumerate(zip(prompts, params, strict=True)):
            added.append([])
            try:
                for number, (prompt, sample) in enumerate(requests_of(candidates, wanted)):
                    name = sample_id(str(index), number)
                    added[-1].append(
                        self.engine.add_request(
                            prompt.prompt_token_ids,
                            sample,
                            name,
                            template=prompt.template,
                            given=prompt.given,
                        )
                    )
            except RequestError as error:
                for request_id in itertools.chain.from_iterable(added):
                    self.engine.abort(request_id)
                raise RequestError(f"prompt {index}: {error}") from error
        return added

    def _one_each(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        """The parameters of ``count`` prompts."""
        if params is None or isinstance(params, SamplingParams):
            return [params or self.default_sampling_params()] * count
        each = list(params) if isinstance(params, Sequence) else [params]
        if not all(isinstance(wanted, SamplingParams) for wanted in each):
            raise RequestError(
                f"params must be SamplingParams, one for all or one for each, got {params!r}"
            )
        if len(each) != count:
            raise RequestError(f"{count} prompts but {len(each)} params; give one for each")
        return each


def _encode(to_ids: Callable[[Any], Candidates], prompts: Sequence[Any]) -> list[Candidates]:
    """Every prompt as the engine takes it; an error names the prompt's index."""
    encoded: list[Candidates] = []
    for index, prompt in enumerate(prompts):
        try:
            encoded.append(to_ids(prompt))
        except RequestError as error:
            raise RequestError(f"prompt {index}: {error}") from error
    return encoded


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    return [prompts] if isinstance(prompts, str | Mapping) else list(prompts)
