"""The engine as a model of lm-evaluation-harness."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import maybe_truncate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from starr_engine.errors import RequestError
from starr_engine.llm import LLM
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.samples import sample_seed
from starr_engine.study.likelihood.progress import AnswerScore
from starr_engine.study.likelihood.scorer import LikelihoodScorer, Question
from starr_engine.study.lm_eval.arguments import parse_arguments
from starr_engine.study.lm_eval.generation import parse_generation
from starr_engine.study.lm_eval.prompts import encode_text, prefix_token_id
from starr_engine.study.lm_eval.registration import MODEL_NAME
from starr_engine.study.lm_eval.totals import Totals

_logger: Final = logging.getLogger("lm_eval.starr_engine")
"""Below the harness's own, whose level and form it takes."""

Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
"""Key of the harness's cache, context ids, answer ids."""


@register_model(MODEL_NAME)
class StarrEngineLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """All of the engine under the harness: continuous batching, any policies, any cache.

    Args:
        batch_size: Of the harness: requests that run at once.
        max_batch_size: Of the harness, with ``batch_size=auto``.
        device: Of the harness.
        **arguments: See ``parse_arguments`` and docs/evaluation.md.

    Raises:
        ConfigError: If an argument, or the model, cannot be used.
        RequestError: If the model folder has no tokenizer, or a sampling value is out of range.
    """

    backend = "causal"

    def __init__(
        self,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._arguments = parse_arguments(
            arguments,
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            device=_usable_device(device),
        )
        self._llm = LLM(**self._arguments.engine)
        self._tokenizer = self._llm.tokenizer
        self._params = self._llm.default_sampling_params().with_overrides(self._arguments.sampling)
        self.tokenizer = self._tokenizer.backend
        """As transformers has it; the harness reads its chat template."""

        self.totals = Totals()
        """What all requests have cost so far."""

    @property
    def llm(self) -> LLM:
        """What does the work."""
        return self._llm

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self._llm.engine.spec.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands in front of a text that has no context."""
        return prefix_token_id(self._tokenizer, self._llm.engine.spec)

    @property
    def max_length(self) -> int:
        """Longest context and output together, in tokens."""
        return self._llm.engine.config.max_model_len

    @property
    def max_gen_toks(self) -> int:
        """Output tokens of tasks that name no number."""
        return self._arguments.max_gen_toks

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self._llm.engine.device

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of the harness's cache of requests."""
        return self._llm.engine.config.model.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's results say of the model, and of what the evaluation has cost."""
        config = self._llm.engine.config
        return {
            "model_num_parameters": self._llm.engine.num_parameters,
            "model_dtype": config.dtype,
            "model_revision": config.revision or "",
            "starr_engine": {
                "model": config.model,
                "max_num_requests": config.max_num_requests,
                "remasking": self._params.remasking,
                "remasking_args": dict(self._params.remasking_args),
                "cache": self._params.cache,
                "cache_args": dict(self._params.cache_args),
                "block_length": self._params.block_length,
                "seed": self._params.seed,
                "mc_samples": self._arguments.mc_samples,
                "totals": self.totals.to_plain(),
            },
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the checkpoint's own template writes it.

        Raises:
            RequestError: If the model has no template, or it refuses the messages.
        """
        return self._tokenizer.chat_text(chat_history, continues_last=not add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text; None adds special tokens unless the text begins with BOS."""
        del kwargs
        if add_special_tokens is False:
            return self._tokenizer.encode_part(string)
        return encode_text(self._tokenizer, string)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for all requests in one batch that is always full.

        Prompts that leave no room for the output lose tokens at their beginning, with a warning.
        A request that comes several times and samples (``repeats``) has another seed each time.

        Raises:
            RequestError: If a request cannot run: an empty text in its place would count as an
                answer.
        """
        prompts: list[dict[str, list[int]]] = []
        params: list[SamplingParams] = []
        seen: Counter[str] = Counter()
        for request in requests:
            context, kwargs = request.args
            wanted = parse_generation(kwargs, self._tokenizer, self.max_gen_toks)
            length = wanted.max_gen_toks
            ids = self.tok_encode(context) or [self.prefix_token_id]
            ids, length = maybe_truncate(ids, length, self.max_length)
            each = self._params.with_overrides({**wanted.overrides, "max_tokens": length})
            if each.temperature > 0:
                times = seen[repr(request.args)]
                seen[repr(request.args)] += 1
                each = each.with_overrides({"seed": sample_seed(each.seed, times)})
            prompts.append({"prompt_token_ids": ids})
            params.append(each)
        texts = [""] * len(requests)
        with (
            self._llm.stream(prompts, params) as stream,
            tqdm(total=len(requests), disable=disable_tqdm, desc="generate_until") as bar,
        ):
            for output in stream:
                if not isinstance(output, RequestOutput):
                    continue
                index = int(output.request_id)
                if output.error is not None:
                    raise RequestError(f"request {index} of generate_until: {output.error}")
                texts[index] = output.text
                self.totals.add_output(output)
                self.cache_hook.add_partial("generate_until", requests[index].args, output.text)
                bar.update(1)
        _logger.info("generate_until, so far: %s", self.totals.to_plain())
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        scores = self._score(requests, disable_tqdm, check_greedy=self._arguments.check_greedy)
        return [_pair(score) for score in scores]

    def _score(
        self, requests: Sequence[Encoded], disable_tqdm: bool, *, check_greedy: bool
    ) -> list[AnswerScore]:
        scorer = LikelihoodScorer(
            self._llm.engine,
            samples=self._arguments.mc_samples,
            seed=self._params.seed,
            check_greedy=check_greedy,
        )
        questions = [self._question(context, answer) for _, context, answer in requests]
        with tqdm(total=len(requests), disable=disable_tqdm, desc="loglikelihood") as bar:

            def on_scored(index: int, score: AnswerScore) -> None:
                self.totals.add_score(score)
                if (key := requests[index][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", key, _pair(score))
                bar.update(1)

            scores = scorer.score(questions, on_scored)
        _logger.info("loglikelihood, so far: %s", self.totals.to_plain())
        return scores

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The bound of whole texts.

        One that is longer than the model allows is scored in windows, each token in one of them and
        the last window behind as much context as fits.
        """
        windows: list[Encoded] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            pieces = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,  # and the one token of context
                context_len=1,
            )
            for context, answer in map(make_disjoint_window, pieces):
                windows.append((None, context, answer))
                owners.append(index)
        totals = [0.0] * len(requests)
        scores = self._score(windows, disable_tqdm, check_greedy=False)
        for index, score in zip(owners, scores, strict=True):
            totals[index] += score.log_likelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _question(self, context: list[int], answer: list[int]) -> Question:
        room = self.max_length - len(answer)
        if room < 1:
            raise RequestError(
                f"an answer of {len(answer)} tokens leaves no room for a context in the model's "
                f"{self.max_length}; raise max_model_len if the model allows it"
            )
        if len(context) > room:
            _logger.warning(
                "a context of %d tokens and an answer of %d do not fit into %d: the context loses "
                "its beginning", len(context), len(answer), self.max_length,
            )  # fmt: skip
        return Question(context=tuple(context[-room:]), answer=tuple(answer))


def _pair(score: AnswerScore) -> tuple[float, bool]:
    return score.log_likelihood, bool(score.is_greedy)


def _usable_device(device: str | None) -> str | None:
    """The harness's flag; its default names a GPU also where there is none."""
    if device == "cuda:0" and not torch.cuda.is_available():
        _logger.warning("device cuda:0, the harness's default, is not here; the CPU is taken")
        return "cpu"
    return device
