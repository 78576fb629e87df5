"""The front door: prompts in, outputs out, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.stream import OutputStream
from starr_engine.errors import RequestError
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.samples import join_samples, sample_id, split_samples
from starr_engine.tokenization import Tokenizer

Prompt = str | Mapping[str, Any]
"""A text, or ``{"prompt": text}``, or ``{"prompt_token_ids": [...]}``."""

Message = Mapping[str, str]
"""``{"role": ..., "content": ...}``."""


class LLM:
    """A model ready to generate.

    Args:
        model: A shipped model's name, a local folder in the published format, or a hub id.
        **options: Fields of ``EngineConfig``.

    Raises:
        ConfigError: If the model or an option cannot be used.

    Example:
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
            params: For all prompts, or one each; None takes the defaults.
            use_tqdm: Show a progress bar.

        Returns:
            One output per prompt, in order; with ``n`` above 1 the first sample's, which holds
            the others.

        Raises:
            RequestError: If a prompt cannot run, before any has started; names its index.
        """
        ids = _encode(self._prompt_ids, _as_list(prompts))
        return self._run(ids, params, use_tqdm=use_tqdm)

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
        ids = _encode(self.tokenizer.encode_chat, many)
        return self._run(ids, params, use_tqdm=use_tqdm)

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
            RequestError: As ``generate``, at once and not when the first output is read.
        """
        ids = _encode(self._prompt_ids, _as_list(prompts))
        added = self._add(ids, params)
        return OutputStream(self.engine, [name for samples in added for name in samples])

    def _run(
        self,
        ids: list[list[int]],
        params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        added = self._add(ids, params)
        request_ids = [name for samples in added for name in samples]
        finished: dict[str, RequestOutput] = {}
        with OutputStream(self.engine, request_ids) as stream:
            outputs = (output for output in stream if isinstance(output, RequestOutput))
            if use_tqdm:
                from tqdm import tqdm

                outputs = tqdm(outputs, total=len(request_ids), unit="request")
            for output in outputs:
                finished[output.request_id] = output
        return [join_samples([finished[name] for name in samples]) for samples in added]

    def _add(
        self, ids: list[list[int]], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[list[str]]:
        """Add all samples of all prompts, or none; returns the request ids of each prompt."""
        if params is None or isinstance(params, SamplingParams):
            each = [params or SamplingParams()] * len(ids)
        else:
            each = list(params) if isinstance(params, Sequence) else [params]
            if not all(isinstance(wanted, SamplingParams) for wanted in each):
                raise RequestError(
                    f"params must be SamplingParams, one for all or one for each, got {params!r}"
                )
            if len(each) != len(ids):
                raise RequestError(f"{len(ids)} prompts but {len(each)} params; give one for each")
        if self.engine.has_unfinished:
            raise RequestError(
                "another call of this LLM is not finished; read its stream to the end or close it"
            )
        added: list[list[str]] = [[] for _ in ids]
        for index, (prompt, wanted) in enumerate(zip(ids, each, strict=True)):
            try:
                for number, sample in enumerate(split_samples(wanted)):
                    name = sample_id(str(index), number)
                    added[index].append(self.engine.add_request(prompt, sample, request_id=name))
            except RequestError as error:
                for samples in added:
                    for request_id in samples:
                        self.engine.abort(request_id)
                raise RequestError(f"prompt {index}: {error}") from error
        return added

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if isinstance(prompt, Mapping) and len(prompt) == 1:
            if isinstance(ids := prompt.get("prompt_token_ids"), Iterable):
                return list(ids)
            if isinstance(text := prompt.get("prompt"), str):
                return self.tokenizer.encode(text)
        raise RequestError(
            'a prompt is a text, {"prompt": text} or {"prompt_token_ids": [...]}, '
            f"got {prompt!r}"
        )


def _encode(to_ids: Callable[[Any], list[int]], prompts: Sequence[Any]) -> list[list[int]]:
    """The ids of every prompt; an error names the prompt's index."""
    ids: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        try:
            ids.append(to_ids(prompt))
        except RequestError as error:
            raise RequestError(f"prompt {index}: {error}") from error
    return ids


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    return [prompts] if isinstance(prompts, str | Mapping) else list(prompts)
