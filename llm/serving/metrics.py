"""What `/metrics` shows, in Prometheus' text format."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llm.inference.engine import Statistics

_GAUGES = {
    'queued': 'Texts that wait for a slot',
    'running': 'Texts that are being written',
}
_COUNTERS = {
    'accepted': ('texts_accepted', 'Texts that the engine took on'),
    'refused': ('texts_refused', 'Texts refused because the queue was full'),
    'completed': ('texts_completed', 'Texts ended by a stop token, a stop string or their length'),
    'cancelled': ('texts_cancelled', 'Texts given up because their client left, or the server stopped'),
    'expired': ('texts_expired', 'Texts that ran out of time'),
    'failed': ('texts_failed', 'Texts that ended with an error'),
    'prompt_tokens': ('prompt_tokens', 'Tokens of prompts read'),
    'generated_tokens': ('generated_tokens', 'Tokens written'),
    'prefill_seconds': ('prefill_seconds', 'Seconds spent on reading prompts'),
    'decode_seconds': ('decode_seconds', 'Seconds spent on writing'),
    'decode_steps': ('decode_steps', 'Steps of the batch; tokens per step are how full it was'),
}
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


prometheus_client.disable_created_metrics()  # a second line for each count, that says when the server started


class _EngineCollector:
    """Reads the engine's counts when they are asked for."""

    def __init__(self, statistics: Callable[[], Statistics]):
        self._statistics = statistics

    def collect(self) -> Iterator[Any]:
        values = dataclasses.asdict(self._statistics())
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f'glassbox_{name}', text, values[name])
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f'glassbox_{name}', text, values[field])


class Metrics:
    """The counts of one server.

    Attributes:
        requests: answers by route and HTTP status; 499 are clients that left before the end.
        seconds: from the request to the end of the answer, by route.
        first_token: seconds from the request to the first token, by route.
        ready: 1, and 0 while the server drains.
        connections: open ones.
    """

    def __init__(self, statistics: Callable[[], Statistics]):
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(_EngineCollector(statistics))
        prometheus_client.ProcessCollector(registry=self._registry)
        ours = {'namespace': 'glassbox', 'registry': self._registry}
        self.requests = prometheus_client.Counter('requests', 'HTTP requests answered', ['route', 'status'], **ours)
        self.seconds = prometheus_client.Histogram(
            'request_seconds', 'From a request to the end of its answer', ['route'], buckets=_SECONDS, **ours
        )
        self.first_token = prometheus_client.Histogram(
            'first_token_seconds', 'From a request to its first token', ['route'], buckets=_SECONDS, **ours
        )
        self.ready = prometheus_client.Gauge('ready', '1 if new requests are taken, 0 while draining', **ours)
        self.connections = prometheus_client.Gauge('connections', 'Open connections', **ours)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)


CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
