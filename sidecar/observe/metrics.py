"""Prometheus metrics. Labels are bounded: names that callers invent are counted as `other`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from sidecar.errors import Cancelled, RequestError
from sidecar.observe.recent import Recent, Where

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from sidecar.call import Call

_WHERE = ("service", "node", "provider", "model")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
_STATES = {"closed": 0, "half_open": 1, "open": 2}
_MOST_SERIES = 2_000  # combinations of service, node, provider and model; more are counted as `other`
_BOUNDS = (*(str(float(bound)) for bound in _SECONDS), "+Inf")


class _Times:
    """How many took how long: a histogram's buckets."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip(_BOUNDS, accumulate(self.counts), strict=True))


class _Series:
    """The sums of one combination of labels. Plain figures, made into metrics when somebody looks: that costs a call a third."""

    __slots__ = ("cached", "cost", "duration", "fallbacks", "first_token", "saved", "tokens_in", "tokens_out", "totals")

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}  # by status
        self.duration = _Times()
        self.first_token = _Times()
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost = 0
        self.fallbacks = 0
        self.cached: dict[str, int] = {}  # by kind of answer, or `miss`
        self.saved = 0


class Metrics:
    """One registry, made at start; `registry` is what /metrics shows."""

    def __init__(
        self,
        known_nodes: Iterable[str],
        known_services: Iterable[str],
        known_models: Container[str],
        breaker_states: Callable[[], list[tuple[str, str, str]]],
        queue_lengths: Callable[[], list[tuple[str, int]]],
    ) -> None:
        """`known_nodes` are `service.node`, `known_models` ids and providers' names; others that callers name count as `other`."""
        self.registry = registry = CollectorRegistry()
        nodes = set(known_nodes)
        self._nodes = nodes
        self._models = known_models
        self._services = {name.partition(".")[0] for name in nodes} | {"default", *known_services}
        self._series: dict[Where, _Series] = {}
        self.budget_warnings = Counter("llm_budget_warning_total", "Accounts that reached their warning threshold.", registry=registry)
        self.overruns = Counter("llm_budget_overrun_total", "Calls that cost more than was held for them.", registry=registry)
        self.events = Counter("llm_event_total", "What operators are told of: see OpsService.ListEvents.", ["kind"], registry=registry)
        self._refused = Counter(
            "llm_refused_total", "Calls refused by the sidecar itself: shed, tenant_limit, queue.", ["service", "reason"], registry=registry
        )
        self._breaker_changes = Counter(
            "llm_circuit_breaker_changes_total", "Breakers, by new state.", ["service", "provider", "model", "to"], registry=registry
        )
        self.in_flight = Gauge("llm_calls_in_flight", "Calls being answered now.", registry=registry)
        self._recent = Recent()
        registry.register(_Calls(self._series))
        registry.register(_ReadOnDemand(known_models, breaker_states, queue_lengths, self._recent))

    def refused(self, service: str, reason: str) -> None:
        """Count one call that was not admitted."""
        self._refused.labels(service if service in self._services else "other", reason).inc()

    def breaker_changed(self, service: str, target: str, to: str) -> None:
        """Count one change of a breaker's state; `target` is a candidate's."""
        self._breaker_changes.labels(service, *_labels(target, self._models), to).inc()

    def call(self, call: Call, duration_s: float) -> None:
        """Count one ended call."""
        served = call.served
        node = f"{call.service}.{call.node_name}"
        where = (
            call.service if call.service in self._services else "other",
            "" if not call.node_name else call.node_name if node in self._nodes else "other",
            served.model.provider if served else "",
            "" if served is None else served.model.id if served.model.id in self._models else "other",
        )
        series = self._series.get(where)
        if series is None:
            if len(self._series) >= _MOST_SERIES:
                where = _OTHER
            series = self._series.setdefault(where, _Series())
        status = "ok" if call.error is None else call.error.reason
        series.totals[status] = series.totals.get(status, 0) + 1
        series.duration.add(duration_s)
        if call.first_piece is not None:
            series.first_token.add(call.first_piece - call.arrived)
        usage = call.usage
        series.tokens_in += (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        series.tokens_out += (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
        series.cost += call.nano_usd
        if served is not None and served.fallback and call.error is None:
            series.fallbacks += 1
        if (how := call.recalled) is not None:
            kind = "joined" if how.joined else how.kind
            series.cached[kind] = series.cached.get(kind, 0) + 1
        elif call.caching is not None and call.caching.rule.reads:
            missed = "miss" if call.caching.would_be is None else "shadow"
            series.cached[missed] = series.cached.get(missed, 0) + 1
        series.saved += call.saved_nano_usd
        # A caller's own mistake or change of mind is no error of ours or a provider's.
        failed = call.error is not None and not isinstance(call.error, RequestError | Cancelled)
        self._recent.add(where, failed=failed, nano_usd=call.nano_usd, unix_s=time.time())


_OTHER = ("other", "other", "other", "other")


class _Calls(Collector):
    """The sums over calls."""

    def __init__(self, series: dict[Where, _Series]) -> None:
        self._series = series

    def collect(self) -> Iterable[Metric]:
        total = CounterMetricFamily("llm_request", "Calls that ended, by status.", labels=(*_WHERE, "status"))
        duration = HistogramMetricFamily("llm_request_duration_seconds", "From a call's arrival to its end.", labels=_WHERE)
        first = HistogramMetricFamily("llm_first_token_seconds", "From a call's arrival to the first piece of its answer.", labels=_WHERE)
        used = CounterMetricFamily("llm_token_usage", "Tokens processed; cached and written ones are in.", labels=(*_WHERE, "direction"))
        cost = CounterMetricFamily("llm_cost_nano_usd", "What calls cost, in billionths of a US dollar.", labels=_WHERE)
        fallbacks = CounterMetricFamily("llm_fallback", "Calls that another model than the first choice answered.", labels=_WHERE)
        help_text = (
            "Calls that may be answered from memory: exact, semantic, stale, joined (waited for an identical call), shadow (a similar "
            "answer was not given), miss."
        )
        cached = CounterMetricFamily("llm_cache", help_text, labels=(*_WHERE, "kind"))
        saved = CounterMetricFamily("llm_cache_saved_nano_usd", "What answers from memory had cost when they were made.", labels=_WHERE)
        for where, series in list(self._series.items()):  # a copy: this runs in a thread of its own
            for status, count in list(series.totals.items()):
                total.add_metric((*where, status), count)
            duration.add_metric(where, series.duration.buckets(), series.duration.sum_s)
            first.add_metric(where, series.first_token.buckets(), series.first_token.sum_s)
            used.add_metric((*where, "in"), series.tokens_in)
            used.add_metric((*where, "out"), series.tokens_out)
            cost.add_metric(where, series.cost)
            fallbacks.add_metric(where, series.fallbacks)
            for kind, count in list(series.cached.items()):
                cached.add_metric((*where, kind), count)
            saved.add_metric(where, series.saved)
        yield from (total, duration, first, used, cost, fallbacks, cached, saved)


class _ReadOnDemand(Collector):
    """Figures that are worked out when somebody looks, so that nobody needs to keep them up to date."""

    def __init__(
        self,
        known_models: Container[str],
        breaker_states: Callable[[], list[tuple[str, str, str]]],
        queue_lengths: Callable[[], list[tuple[str, int]]],
        recent: Recent,
    ) -> None:
        self._known_models = known_models
        self._breaker_states = breaker_states
        self._queue_lengths = queue_lengths
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
        queues = GaugeMetricFamily("llm_queue_length", "Calls that wait for a place among their service's.", labels=("service",))
        for service, waiting in self._queue_lengths():
            queues.add_metric((service,), waiting)
        yield queues
        worst: dict[tuple[str, str, str], int] = {}
        for service, target, state in self._breaker_states():
            labels = (service, *_labels(target, self._known_models))
            worst[labels] = max(worst.get(labels, 0), _STATES[state])
        help_text = "0 closed, 1 half open, 2 open; the worst one for models that only callers know."
        states = GaugeMetricFamily("llm_circuit_breaker_state", help_text, labels=("service", "provider", "model"))
        for labels, value in worst.items():
            states.add_metric(labels, value)
        yield states


def _labels(target: str, known_models: Container[str]) -> tuple[str, str]:
    """The provider, with its endpoint if it has several (`openai#eu`), and the model, if more than callers know it."""
    spot, _, name = target.partition("/")
    provider = spot.partition("#")[0]
    return spot, name if name in known_models or f"{provider}/{name}" in known_models else "other"
