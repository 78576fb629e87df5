"""Prometheus metrics: counters of the server, and the engine's own numbers at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starr_engine.engine.stats import EngineStats
from starr_engine.serve.record import RequestRecord

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0,
)  # fmt: skip
_FORWARDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_TPF: Final = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)

_COUNTERS: Final = (
    ("steps", "num_steps", "Forwards of the model over all scheduled requests."),
    ("request_forwards", "request_forwards", "Sum of the requests' NFE."),
    ("refreshes", "num_refreshes", "Request forwards that computed all live rows to reuse them."),
    ("computed_rows", "computed_rows", "Token rows computed."),
    ("unmasked_tokens", "num_unmasked", "Masks that became tokens."),
    ("preemptions", "num_preemptions", "Times a request gave its pages up to an earlier one."),
    ("prefix_page_hits", "prefix_hits", "Whole pages of final tokens found at admission."),
    ("prefix_page_misses", "prefix_misses", "Whole pages of final tokens looked for in vain."),
    ("canvas_hits", "canvas_hits", "Requests spared their first step's context."),
    ("canvas_misses", "canvas_misses", "Requests whose first step was looked for in vain."),
    ("evicted_pages", "num_evicted_pages", "Pages whose content was given up."),
)
_GAUGES: Final = (
    ("requests_running", "num_running", "Requests in the batch."),
    ("requests_waiting", "num_waiting", "Requests that were not admitted yet."),
    ("pages", "num_pages", "Pages that requests can have."),
    ("pages_free", "num_free_pages", "Pages that a request could be given now."),
    ("pages_indexed", "num_indexed_pages", "Pages whose content another request can take over."),
)
_DRIFT: Final = (
    ("flip_rate", "Share of probed rows with another most probable token."),
    ("mean_kl", "Mean KL(all rows computed || as cached) of probed rows, in nats."),
    ("max_kl", "Largest KL of a probed row, in nats."),
    ("mean_confidence_error", "Mean absolute error of the largest probability of probed rows."),
)


class ServerMetrics:
    """What the server counts, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self._registry, "namespace": "starr"}
        self._requests = Counter(
            "http_requests", "HTTP requests by route and status.", ("route", "status"), **make
        )
        self.in_progress = Gauge("http_requests_in_progress", "Generating HTTP requests.", **make)
        self._seconds = Histogram(
            "http_request_seconds", "From a request's arrival to its last byte.", ("route",),
            buckets=_SECONDS, **make,
        )  # fmt: skip
        self._first_block = Histogram(
            "first_block_seconds", "From a streamed request's arrival to its first block.",
            buckets=_SECONDS, **make,
        )  # fmt: skip
        self._prompt_tokens = Counter("prompt_tokens", "Tokens of prompts.", **make)
        self._tokens = Counter("completion_tokens", "Tokens of outputs, without EOS.", **make)
        self._forwards = Histogram(
            "choice_forwards", "Model forwards of a choice (NFE).", buckets=_FORWARDS, **make
        )
        self._tpf = Histogram(
            "choice_tokens_per_forward", "Unmasked tokens per forward of a choice (TPF).",
            buckets=_TPF, **make,
        )  # fmt: skip

    def count(self, record: RequestRecord) -> None:
        """Add a request that has ended."""
        self._requests.labels(record.route, str(record.status)).inc()
        self._seconds.labels(record.route).observe(record.elapsed_s)
        if record.first_block_s is not None:
            self._first_block.observe(record.first_block_s)
        if record.usage is not None:
            self._prompt_tokens.inc(record.usage["prompt_tokens"])
            self._tokens.inc(record.usage["completion_tokens"])
        for forwards, tpf in record.choices:
            self._forwards.observe(forwards)
            self._tpf.observe(tpf)

    def render(self, stats: EngineStats) -> bytes:
        """All metrics in Prometheus's text format.

        Args:
            stats: Of now.
        """
        engine = CollectorRegistry()
        engine.register(_EngineCollector(stats))
        return bytes(generate_latest(self._registry) + generate_latest(engine))


class _EngineCollector(Collector):
    """The numbers of one moment."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        ended = CounterMetricFamily(
            "starr_engine_requests", "Requests of the engine by how they ended.", labels=("end",)
        )
        for end in ("finished", "failed", "aborted"):
            ended.add_metric((end,), getattr(stats, f"num_{end}"))
        yield ended
        for name, field, text in _COUNTERS:
            yield CounterMetricFamily(f"starr_engine_{name}", text, value=getattr(stats, field))
        for name, field, text in _GAUGES:
            yield GaugeMetricFamily(f"starr_engine_{name}", text, value=getattr(stats, field))
        drift = stats.drift
        yield CounterMetricFamily(
            "starr_engine_probe_forwards", "Steps computed again without reuse.",
            value=drift.probe_forwards,
        )  # fmt: skip
        for name, text in _DRIFT:
            # No row was compared yet: a zero would say that the cache is exact.
            if (value := getattr(drift, name)) is not None:
                yield GaugeMetricFamily(f"starr_engine_drift_{name}", text, value=value)
