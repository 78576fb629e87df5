"""Rows into the engine, outputs out of it, in whatever order they finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from starr_engine.config import EngineConfig
from starr_engine.errors import CapacityError, ConfigError, RequestError
from starr_engine.infilling import SEAM_PARAMS, Candidates, Template, seam_checks
from starr_engine.offline.rows import Encoder, RawRow, Row, output_row, parse_row
from starr_engine.outputs import BlockOutput, FinishReason, RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.samples import join_requests, requests_of, sample_id

OutputRow = dict[str, object]


class BatchEngine(Protocol):
    """The part of the engine that a batch job uses."""

    @property
    def config(self) -> EngineConfig:
        """Its settings."""

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        template: Template | None = None,
        given: Sequence[int] | None = None,
    ) -> str:
        """Take a request, or raise RequestError and stay as it was."""

    def step(self) -> Sequence[BlockOutput | RequestOutput]:
        """One denoising step of all scheduled requests."""

    def abort(self, request_id: str) -> RequestOutput | None:
        """Drop a request."""


class BatchLLM(Protocol):
    """What a batch job runs on; ``starr_engine.LLM`` is one."""

    @property
    def engine(self) -> BatchEngine:
        """Runs the requests."""

    @property
    def tokenizer(self) -> Encoder:
        """Makes the ids; raises RequestError if the model has none."""


class RowRunner:
    """Turns rows into requests, and what comes of those into rows of the output.

    Args:
        llm: Runs the rows.
        defaults: What a row asks for unless it says otherwise.
        on_finish: Takes the index of a row and its row of the output, as soon as it is finished;
            called from :meth:`add` and :meth:`step`.
        is_stopped: Asked between the rows of a failed step, which run alone; True lets the rest be.
    """

    def __init__(
        self,
        llm: BatchLLM,
        *,
        defaults: SamplingParams,
        on_finish: Callable[[int, OutputRow], None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine: Final = llm.engine
        self._llm: Final = llm
        self._defaults: Final = defaults
        self._on_finish: Final = on_finish
        self._is_stopped: Final = is_stopped
        self._running: dict[str, Row] = {}
        # Of each row: requests to wait for, finished ones, filled gaps that are being judged.
        self._awaited: dict[int, list[str]] = {}
        self._outputs: dict[str, RequestOutput] = {}
        self._filled: dict[int, list[RequestOutput]] = {}

    @property
    def num_requests(self) -> int:
        """Requests in the engine; a row has one, or one for each sample or length of a gap."""
        return len(self._running)

    def add(self, raw: RawRow) -> None:
        """Give a row to the engine; one that cannot run is finished with an error at once."""
        self._admit(parse_row(raw, self._defaults, lambda: self._llm.tokenizer))

    def step(self) -> None:
        """One denoising step; after a failed one the rows run alone, so that the guilty one loses.

        Raises:
            StarrError: If the engine cannot go on with any row.
        """
        try:
            outputs = self._engine.step()
        except (RequestError, CapacityError):
            self._run_one_by_one()
        else:
            self._collect(outputs)

    def _admit(self, row: Row) -> None:
        if row.error is not None:
            self._finish(row, row.error)
            return
        self._start(row, row.candidates, row.params)

    def _start(self, row: Row, prompts: Candidates, params: SamplingParams) -> None:
        try:
            asked = requests_of(prompts, params)
            names = [sample_id(f"row-{row.index}", number) for number in range(len(asked))]
            self._awaited[row.index] = names
            for name, (prompt, sample) in zip(names, asked, strict=True):
                # Policies that do not exist are ConfigErrors of their registry.
                self._engine.add_request(
                    prompt.prompt_token_ids,
                    sample,
                    request_id=name,
                    template=prompt.template,
                    given=prompt.given,
                )
                self._running[name] = row
        except (RequestError, ConfigError, CapacityError) as error:
            self._fail(row, str(error))

    def _collect(self, outputs: Sequence[BlockOutput | RequestOutput]) -> None:
        for output in outputs:
            if isinstance(output, RequestOutput) and output.request_id in self._running:
                row = self._running.pop(output.request_id)
                aborted = output.finish_reason is FinishReason.ABORT
                reason = "the engine aborted the request" if aborted else output.error
                if reason is not None and len(row.candidates) == 1:
                    self._fail(row, reason)
                    continue
                self._outputs[output.request_id] = output
                names = self._awaited[row.index]
                if all(name in self._outputs for name in names):
                    self._go_on(row, [self._outputs.pop(name) for name in names])

    def _go_on(self, row: Row, outputs: list[RequestOutput]) -> None:
        """All requests of the row are finished: judge the gaps they filled, or take the best."""
        filled = self._filled.pop(row.index, None)
        if filled is None:
            if checks := seam_checks(row.candidates, outputs):
                self._filled[row.index] = outputs
                self._start(row, checks, SEAM_PARAMS)
                return
            filled, outputs = outputs, []
        output = join_requests(row.candidates, filled, outputs)
        aborted = output.finish_reason is FinishReason.ABORT
        reason = "the engine aborted the request" if aborted else output.error
        self._finish(row, reason or output)

    def _fail(self, row: Row, reason: str) -> None:
        """Finish a row with an error; its other requests are of no use then."""
        for name in self._awaited.get(row.index, ()):
            self._outputs.pop(name, None)
            if self._running.pop(name, None) is not None:
                self._engine.abort(name)
        self._finish(row, reason)

    def _finish(self, row: Row, result: RequestOutput | str) -> None:
        self._awaited.pop(row.index, None)
        self._filled.pop(row.index, None)
        self._on_finish(row.index, output_row(row, result))

    def _run_one_by_one(self) -> None:
        """After a failed step run each request alone, so that only the guilty one loses."""
        suspects = {row.index: row for row in self._running.values()}
        for request_id in self._running:
            self._engine.abort(request_id)
        self._forget_running()
        for row in suspects.values():
            if self._is_stopped():
                return
            self._admit(row)
            while self._running:
                try:
                    self._collect(self._engine.step())
                except (RequestError, CapacityError) as error:
                    self._fail(row, str(error))

    def _forget_running(self) -> None:
        for of_rows in (self._running, self._outputs, self._awaited, self._filled):
            of_rows.clear()
