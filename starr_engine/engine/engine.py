"""The engine: requests in, denoising steps, outputs out."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.config import EngineConfig
from starr_engine.decoding.base import REMASKING_POLICIES, RemaskingPolicy
from starr_engine.decoding.exit.base import create_exit_rule
from starr_engine.decoding.policies.given import GivenTokens
from starr_engine.engine.ahead import can_go_ahead, model_goes_ahead, plans_ahead
from starr_engine.engine.batching import Batcher
from starr_engine.engine.canvas_cache import CanvasCache
from starr_engine.engine.collector import OutputCollector
from starr_engine.engine.compiling import compile_layers
from starr_engine.engine.decoder import Decoder, QueuedDecisions
from starr_engine.engine.executor import Executor
from starr_engine.engine.given_tokens import check_given
from starr_engine.engine.graphs.setup import make_runner
from starr_engine.engine.loading import LoadedEngine, StartRanks, load
from starr_engine.engine.options import EngineOptions
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.profiling import usual_block_rows
from starr_engine.engine.progress import Change, ProgressKeeper
from starr_engine.engine.rank_processes import RankProcesses
from starr_engine.engine.request_checks import check_request
from starr_engine.engine.resolve import resolve_params
from starr_engine.engine.rules import make_rules
from starr_engine.engine.running import Ahead, RunningRequest
from starr_engine.engine.scheduler import Scheduler
from starr_engine.engine.stats import EngineStats, StatsKeeper
from starr_engine.engine.step_batch import StepBatch
from starr_engine.engine.stopping import StopRule
from starr_engine.engine.token_ids import check_vocabulary, plain_ids, template_ids
from starr_engine.engine.tracing import TraceRecorder
from starr_engine.errors import RequestError
from starr_engine.infilling import Template
from starr_engine.models.loading.quantization import held_weight_bytes
from starr_engine.outputs import (
    BlockOutput,
    FinishReason,
    ProvisionalOutput,
    RequestOutput,
)
from starr_engine.params import SamplingParams
from starr_engine.request import Request
from starr_engine.tokenization import Tokenizer

_NO_OPTIONS: Final = EngineOptions()


class Engine:
    """Continuous batching of denoising steps; not thread-safe.

    Args:
        config: Resolved against the model while loading; see ``Engine.config``.
        start_ranks: Where the other ranks of a split model run.
        options: What tests and measurements switch.

    Raises:
        ConfigError: If model or settings cannot be used.
        CapacityError: If the pool does not fit into the memory given.
        EngineDeadError: If another rank ended before it was ready.
    """

    def __init__(
        self,
        config: EngineConfig,
        start_ranks: StartRanks = RankProcesses,
        options: EngineOptions = _NO_OPTIONS,
    ) -> None:
        self._build(load(config, start_ranks), options)

    def _build(self, loaded: LoadedEngine, options: EngineOptions) -> None:
        self.config = config = loaded.config
        self.spec = loaded.model.spec
        self.tokenizer: Tokenizer | None = loaded.tokenizer
        self.device = loaded.device
        self.page_pool = loaded.page_pool
        self.num_parameters = loaded.num_parameters
        self.weight_bytes = held_weight_bytes(loaded.model)
        self.canvases = CanvasCache(loaded.page_pool, max_entries=loaded.config.canvas_cache)
        self.keeper = PageKeeper(
            loaded.page_pool,
            canvases=self.canvases,
            identity=" ".join(
                map(str, (config.model, config.dtype, config.quantization, self.spec))
            ),
            share_prefixes=loaded.config.prefix_caching,
        )
        self.scheduler = Scheduler(
            self.keeper,
            max_num_requests=loaded.config.max_num_requests,
            max_num_batched_tokens=loaded.config.max_num_batched_tokens,
            ridge_rows=config.ridge_tokens,
        )
        model, pages, backends = loaded.model, loaded.kv_pool, loaded.backends
        if options.compile_backend is not None:
            compile_layers(model, options.compile_backend)
        graphs = make_runner(config, model, pages, backends, loaded.device, options.recorder)
        if graphs is not None and config.record_at_start:
            graphs.record(usual_block_rows(self.spec))
        self._stop_rule = StopRule(self.spec.eos_token_ids, loaded.tokenizer)
        self.batcher = Batcher(
            loaded.config.page_size,
            self.spec.mask_token_id,
            loaded.device,
            self.spec.mask_block,
            self.canvases,
            opens_block=self.spec.opens_block,
            max_num_batched_tokens=loaded.config.max_num_batched_tokens,
            spec=self.spec,
            dtype=getattr(torch, loaded.config.dtype),
            defers_upload=graphs is not None,
        )
        self._others = loaded.others
        self.executor = Executor(
            model, pages, backends, loaded.others, graphs,
            head_on_scored_rows=options.head_on_scored_rows,
        )  # fmt: skip
        self.decoder = Decoder(self.spec.mask_token_id, options)
        self.overlaps = self.device.type == "cuda" if options.overlap is None else options.overlap
        wants_ahead = config.launch_ahead == "on" or (
            config.launch_ahead == "auto" and self.device.type == "cuda"
        )
        self.runs_ahead = wants_ahead and loaded.others is None and model_goes_ahead(self.spec)
        self._in_flight: deque[tuple[StepBatch, QueuedDecisions]] = deque()
        self._stats = StatsKeeper()
        self.progress = ProgressKeeper(
            self.scheduler,
            self.keeper,
            self._stop_rule,
            self._stats,
            num_layers=self.spec.num_layers,
        )
        self.outputs = OutputCollector(self._stats)
        self._auto_ids = itertools.count()

    def step(self) -> list[BlockOutput | RequestOutput]:
        """Advance every scheduled request by one denoising step.

        Returns:
            The blocks committed by it and the requests finished by it, in order; a request that
            failed is among these, with its reason, and takes no other with it.

        Raises:
            EngineDeadError: If the model is split and its ranks are no more; see ``close``.
        """
        self.launch()
        changes = self.finish()
        return self.outputs.collect(changes)

    def launch(self) -> None:
        """Queue the next step on the device, and the one behind it where it can be.

        On CUDA the host waits for neither.
        """
        if not self._in_flight:
            self._launch()
        if self.runs_ahead and len(self._in_flight) == 1:
            self._launch_ahead()

    def _launch(self) -> None:
        schedule = self.scheduler.schedule()  # which rows of which requests, on which pages
        step = self.batcher.check(schedule)  # whose plans break no rule
        known = self.decoder.prepare(step)  # what deciding has to know of their blocks
        batch = self.executor.upload(self.batcher.lay_out(step, known.facts))  # all in one copy
        logits = self.executor.forward(batch)  # [M, vocab]; keys and values go through pages
        decisions = self.decoder.decide(known, batch.facts, logits)  # what to unmask, to revoke
        self._in_flight.append((batch, decisions))

    def _launch_ahead(self) -> None:
        """Queue the step behind one that runs, on what that leaves on the device."""
        [(batch, queued)] = self._in_flight
        plans = {} if batch.refused or batch.copies else plans_ahead(batch.entries)
        carried = self.decoder.carry(queued) if plans else None
        if carried is None:
            return
        entries = [batch.entries[index] for index in plans]
        for entry, (index, plan) in zip(entries, plans.items(), strict=True):
            entry.running.ahead = Ahead(plan, carried[index])
        try:
            self._launch()
        finally:
            for entry in entries:
                entry.running.ahead = None

    def finish(self) -> list[Change]:
        """Wait for the step that was launched first, and carry it out; nothing if there is none.

        Returns:
            For ``outputs.collect``, which may wait until the next step is launched.
        """
        if not self._in_flight:
            return []
        batch, queued = self._in_flight.popleft()
        decisions = self.decoder.wait(queued)
        changes = self.progress.apply(batch, decisions)  # canvases, pages, finished requests
        if self._in_flight:
            following, _ = self._in_flight[0]
            is_wanted = any(entry.is_wanted for entry in following.entries)
            if not (is_wanted and queued.rows.is_as_queued):
                self._in_flight.clear()
                self.progress.forget(following)
        return changes

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        template: Template | None = None,
        given: Sequence[int] | None = None,
    ) -> str:
        """Queue a request.

        Args:
            prompt_token_ids: Without the mask token; at least one id, here or in the template.
            params: Of this request alone.
            request_id: Unique among unfinished requests; None makes one.
            template: What stands behind the prompt, in place of ``max_tokens`` masks: fixed ids,
                and None for each token to generate.
            given: Tokens that the template's masks take at once: one forward, after which
                ``mean_log_confidence`` says how probable they are, and ``logprobs`` each of them.
                The template begins a block that holds all its masks, and of a model that sees
                nothing behind a block the whole template, which may then end with fixed ids.

        Returns:
            The request's id.

        Raises:
            RequestError: If it can never run; says why. The engine is as before.
            CapacityError: If its cache policy keeps features and there is no memory for them.
        """
        params = resolve_params(params, self.spec)
        remasking: RemaskingPolicy = (
            REMASKING_POLICIES.create(params.remasking, params.remasking_args)
            if given is None
            else GivenTokens(tokens=tuple(given))
        )
        cache = CACHE_POLICIES.create(params.cache, params.cache_args)
        exit_rule = create_exit_rule(params)
        ids = plain_ids(prompt_token_ids)
        rest = None
        if template is not None:
            rest = template_ids(self.spec, template, params, may_end_fixed=given is not None)
        check_request(
            ids, rest, params, remasking, cache,
            spec=self.spec, config=self.config, keeper=self.keeper,
            has_tokenizer=self.tokenizer is not None,
        )  # fmt: skip
        if given is not None:
            check_vocabulary(self.spec, "given", plain_ids(given))
            assert params.block_length is not None
            check_given(given, len(ids), rest or [], params.block_length, self.spec)
        rules = make_rules(
            params,
            self.spec,
            self._stop_rule,
            self.tokenizer,
            forbid_eos=rest is not None and given is None,
        )
        if request_id is None:
            made = (f"request-{number}" for number in self._auto_ids)
            request_id = next(name for name in made if name not in self.scheduler)
        if not isinstance(request_id, str):
            raise RequestError(f"request_id must be a text, got {request_id!r}")
        if request_id in self.scheduler:
            raise RequestError(f"request id {request_id!r} is in use; choose another")
        request = Request(
            request_id,
            np.array(ids, np.int32),
            params,
            self.spec.mask_token_id,
            None if rest is None else np.array(rest, np.int32),
            mask_block=self.spec.mask_block,
            opens_block=self.spec.opens_block,
            logits_shift=int(self.spec.logits_shift),
            seeds_block=self.spec.seeds_block,
            whole_template=given is not None,
        )
        running = RunningRequest(request, remasking, cache, self.device, rules, exit_rule)
        if params.trace:
            running.recorder = TraceRecorder(
                request, self.config.model, running.cache_label, self.tokenizer
            )
        running.goes_ahead = can_go_ahead(running)
        if cache.keeps_features:
            self.executor.make_feature_pages()
        self.scheduler.add(running)
        return request_id

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request now and free its pages.

        What a step that was launched decides for it is dropped.

        Returns:
            What it had committed, or None if no such request is unfinished.
        """
        running = self.scheduler.remove(request_id)
        if running is None:
            return None
        visible = self._stop_rule.visible(running.request)
        return self.outputs.end(running, visible, FinishReason.ABORT)

    def provisional(self, request_id: str) -> ProvisionalOutput | None:
        """The active block of a running request as it stands; None for any other id."""
        request = self.scheduler.running(request_id)
        if request is None:
            return None
        canvas = request.canvas
        block = canvas.active_block.tolist()
        return ProvisionalOutput(
            request_id=request_id,
            block_index=canvas.block_index,
            token_ids=tuple(None if token == canvas.mask_token_id else token for token in block),
            num_forwards=request.num_forwards,
        )

    def stats(self) -> EngineStats:
        """What has been done since the engine was made, and what it holds now."""
        return self._stats.stats(self.scheduler, self.keeper, self.page_pool)

    def reset_caches(self) -> None:
        """Forget all prefixes and canvases that no running request uses; changes no output."""
        self.canvases.clear()
        # Whoever takes a page that is kept for its content takes the content with it.
        pages = self.page_pool.try_allocate(self.page_pool.num_free)
        assert pages is not None
        self.page_pool.release(pages)

    def close(self) -> None:
        """End the other ranks of a split model, after which no step can be taken.

        It also happens when the engine is forgotten, or the process ends. With one rank there is
        nothing to end.
        """
        if self._others is not None:
            self._others.close()

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.num_running + self.scheduler.num_waiting > 0

    @property
    def num_running(self) -> int:
        """Requests that hold a place in the batch."""
        return self.scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that were not admitted yet."""
        return self.scheduler.num_waiting
