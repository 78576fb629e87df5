"""Prometheus metrics: counters of the server, and the engine's own numbers at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starr_engine.engine.stats import EngineStats
from starr_engine.serve.protocol import FleetState
from starr_engine.serve.record import RequestRecord

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0,
)  # fmt: skip
_FORWARDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_TPF: Final = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)

_COUNTERS: Final = (
    ("steps", "num_steps", "Forwards of the model over all scheduled requests."),
    ("steps_ahead", "num_steps_ahead", "Of these, launched before the one in front was known."),
    ("lost_rows", "num_lost_rows", "Rows of forwards that came to nothing."),
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

    def render(self, engines: Mapping[str, EngineStats], fleet: FleetState | None = None) -> bytes:
        """All metrics in Prometheus's text format.

        Args:
            engines: Of now, by the replica's name; of an engine in this process with an empty name,
                which stands in no label.
            fleet: Of now, where there are replicas.
        """
        engine = CollectorRegistry()
        engine.register(_EngineCollector(engines))
        if fleet is not None:
            engine.register(_FleetCollector(fleet))
        return bytes(generate_latest(self._registry) + generate_latest(engine))


class _EngineCollector(Collector):
    """The numbers of one moment."""

    def __init__(self, engines: Mapping[str, EngineStats]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "starr_engine_requests",
            "Requests of the engine by how they ended.",
            labels=(*self._labels, "end"),
        )
        for name, stats in self._engines.items():
            for end in ("finished", "failed", "aborted"):
                ended.add_metric((*_values(name), end), getattr(stats, f"num_{end}"))
        yield ended
        for kind, table in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for metric, field, text in table:
                yield self._family(kind, metric, text, attrgetter(field))
        yield self._family(
            CounterMetricFamily, "probe_forwards", "Steps computed again without reuse.",
            attrgetter("drift.probe_forwards"),
        )  # fmt: skip
        for metric, text in _DRIFT:
            yield self._family(
                GaugeMetricFamily, f"drift_{metric}", text, attrgetter(f"drift.{metric}")
            )

    @property
    def _labels(self) -> tuple[str, ...]:
        return () if "" in self._engines else ("replica",)

    def _family(
        self, kind: Any, name: str, text: str, value_of: Callable[[EngineStats], float | None]
    ) -> Metric:
        family = kind(f"starr_engine_{name}", text, labels=self._labels)
        for replica, stats in self._engines.items():
            # Drift of which no row was compared yet: a zero would say that the cache is exact.
            if (value := value_of(stats)) is not None:
                family.add_metric(_values(replica), value)
        made: Metric = family
        return made


class _FleetCollector(Collector):
    """The replicas at one moment."""

    def __init__(self, fleet: FleetState) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        phases = GaugeMetricFamily("starr_replicas", "Replicas by phase.", labels=("phase",))
        for phase, count in (
            ("starting", fleet.num_starting),
            ("ready", len(fleet.replicas)),
            ("draining", fleet.num_draining),
        ):
            phases.add_metric((phase,), count)
        yield phases
        for name, count, text in (
            (
                "deaths",
                fleet.num_deaths,
                "Replicas that died while they ran requests of this server.",
            ),
            ("reruns", fleet.num_reruns, "Requests run again because their replica had died."),
        ):
            yield CounterMetricFamily(f"starr_replica_{name}", text, value=count)
        yield GaugeMetricFamily(
            "starr_requests_without_replica", "Requests that wait until a replica is ready.",
            value=fleet.num_waiting,
        )  # fmt: skip
        for field, metric, text in (
            ("num_requests", "requests", "Requests given to a replica and unfinished."),
            (
                "outstanding_tokens",
                "outstanding_tokens",
                "Their tokens, as routing weighs them.",
            ),
        ):
            family = GaugeMetricFamily(f"starr_replica_{metric}", text, labels=("replica",))
            for replica in fleet.replicas:
                family.add_metric((replica.name,), getattr(replica, field))
            yield family


def _values(replica: str) -> tuple[str, ...]:
    return (replica,) if replica else ()
