"""Prometheus metrics. Labels are bounded: names that callers invent are counted as `other`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sidecar.errors import Cancelled, RequestError
from sidecar.observe.recent import Recent

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from sidecar.call import Call

_WHERE = ("service", "node", "provider", "model")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
_STATES = {"closed": 0, "half_open": 1, "open": 2}
_MOST_SERIES = 2_000  # combinations of service, node, provider, model and status; more are counted as `other`


class _Series:
    """The children of one combination of labels, looked up once: finding them costs more than adding to them."""

    __slots__ = ("cost", "duration", "fallbacks", "first_token", "total", "used")

    def __init__(self, metrics: Metrics, where: tuple[str, str, str, str], status: str) -> None:
        self.total = metrics.requests.labels(*where, status)
        self.duration = metrics.duration.labels(*where)
        self.first_token = metrics.first_token.labels(*where)
        self.fallbacks = metrics.fallbacks.labels(*where)
        self.cost = metrics.cost.labels(*where)
        self.used = (metrics.tokens.labels(*where, "in"), metrics.tokens.labels(*where, "out"))


class Metrics:
    """One registry, made at start; `registry` is what /metrics shows."""

    def __init__(self, known_nodes: Iterable[str], breaker_states: Callable[[], list[tuple[str, str, str]]]) -> None:
        """`known_nodes` are `service.node`; any other node or service a caller names is counted as `other`."""
        self.registry = registry = CollectorRegistry()
        nodes = set(known_nodes)
        self._nodes = nodes
        self._services = {name.partition(".")[0] for name in nodes} | {"default"}
        self._series: dict[tuple[str, str, str, str, str], _Series] = {}
        self.requests = Counter("llm_request_total", "Calls that ended, by status.", (*_WHERE, "status"), registry=registry)
        self.duration = Histogram(
            "llm_request_duration_seconds", "From a call's arrival to its end.", _WHERE, buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "llm_first_token_seconds",
            "From a call's arrival to the first piece of its answer.",
            _WHERE,
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "llm_token_usage_total", "Tokens processed; cached and written ones count as in.", (*_WHERE, "direction"), registry=registry
        )
        self.cost = Counter("llm_cost_nano_usd_total", "What calls cost, in billionths of a US dollar.", _WHERE, registry=registry)
        self.fallbacks = Counter(
            "llm_fallback_total", "Calls that another model than the first choice answered.", _WHERE, registry=registry
        )
        self.budget_warnings = Counter("llm_budget_warning_total", "Accounts that reached their warning threshold.", registry=registry)
        self.overruns = Counter("llm_budget_overrun_total", "Calls that cost more than was held for them.", registry=registry)
        self.in_flight = Gauge("llm_calls_in_flight", "Calls being answered now.", registry=registry)
        self._recent = Recent()
        registry.register(_ReadOnDemand(breaker_states, self._recent))

    def call(self, call: Call, duration_s: float) -> None:
        """Count one ended call."""
        served = call.served
        node = f"{call.service}.{call.node_name}"
        key = (
            call.service if call.service in self._services else "other",
            "" if not call.node_name else call.node_name if node in self._nodes else "other",
            served.model.provider if served else "",
            served.model.id if served else "",
            "ok" if call.error is None else call.error.reason,
        )
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _MOST_SERIES:
                key = ("other", "other", "other", "other", key[4])
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(self, key[:4], key[4])
        series.total.inc()
        series.duration.observe(duration_s)
        if call.first_piece is not None:
            series.first_token.observe(call.first_piece - call.arrived)
        usage = call.usage
        used_in = (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        if used_in:
            series.used[0].inc(used_in)
        used_out = (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
        if used_out:
            series.used[1].inc(used_out)
        if call.nano_usd:
            series.cost.inc(call.nano_usd)
        if served is not None and served.fallback and call.error is None:
            series.fallbacks.inc()
        # A caller's own mistake or change of mind is no error of ours or a provider's.
        failed = call.error is not None and not isinstance(call.error, RequestError | Cancelled)
        self._recent.add(key[:4], failed=failed, nano_usd=call.nano_usd, unix_s=time.time())


class _ReadOnDemand(Collector):
    """Figures that are worked out when somebody looks, so that nobody needs to keep them up to date."""

    def __init__(self, breaker_states: Callable[[], list[tuple[str, str, str]]], recent: Recent) -> None:
        self._breaker_states = breaker_states
        self._recent = recent

    def collect(self) -> Iterable[Metric]:
        now = time.time()
        rates = GaugeMetricFamily("llm_error_rate", "Failed calls among all of the last 5 minutes, 0 to 1.", labels=_WHERE)
        for where, rate in self._recent.error_rates(now).items():
            rates.add_metric(where, rate)
        yield rates
        cost = GaugeMetricFamily("llm_cost_daily_usd", "What calls cost since midnight UTC, in US dollars.", labels=_WHERE)
        for where, nano_usd in self._recent.cost_today(now).items():
            cost.add_metric(where, nano_usd / 1e9)
        yield cost
        states = GaugeMetricFamily("llm_circuit_breaker_state", "0 closed, 1 half open, 2 open.", labels=("service", "provider", "model"))
        for service, model, state in self._breaker_states():
            provider, _, name = model.partition("/")
            states.add_metric((service, provider, name), _STATES[state])
        yield states
