"""A server's counters as Prometheus reads them: ``serve --metrics HOST:PORT``.

What may enter: the names of metrics. The text is prometheus_client's, the optional dependency `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..extras import find_package
from .control import Answer

if TYPE_CHECKING:
    from email.message import Message

    from prometheus_client.core import Metric

Statistics = Callable[[], dict[str, Any]]

#: counters of an export, and what they count; those of requests and bytes have labels for that
_REQUESTS = ("reads", "writes", "trims", "write_zeroes", "flushes", "block_status", "caches")
_BYTES = ("read_bytes", "written_bytes")
_EXPORT_COUNTERS = {
    "errors": "requests answered with an error",
    "loads": "pages that backends gave",
    "succ_stores": "pages that a backend took",
    "failed_stores": "pages that every backend refused",
    "invalidates": "pages of backends that were dropped",
    "slot_stores": "pages written to the base",
    "slot_loads": "pages read from the base",
    "poisoned": "pages lost",
    "written_back_pages": "pages that zcache had taken and has written to the base since",
}
_EXPORT_GAUGES = {
    "size": ("size_bytes", "bytes of the export"),
    "used_pages": ("used_pages", "pages that were written and not trimmed"),
    "curr_pages": ("backend_pages", "pages that backends have"),
    "clients": ("clients", "connections that have it"),
    "pool_bytes": ("pool_bytes", "RAM of zcache that its pages take"),
    "quota_bytes": ("quota_bytes", "RAM of zcache that they may take; -1: there is no quota"),
    "weight": ("weight", "of its share of zcache"),
}
_HOOKS_COUNTERS = {
    "slot_errors": "reads and writes of bases that failed",
    "packed_later_pages": "pages that zcache took as they are, and has compressed since",
    "recompressed_pages": "pages that were compressed anew, by zstd or by a codec that suits them",
    "recompressed_saved_bytes": "bytes by which they became smaller",
}
_HOOKS_GAUGES = {
    "pool_bytes": "RAM that zcache takes",
    "pool_live_bytes": "of it what pages take",
    "pool_limit_bytes": "RAM that zcache may take",
    "staged_bytes": "of what pages take, those that are not compressed yet, or could not be",
    "pages_sharing": "pages that share the bytes of another one in zcache",
}


class _Collector:
    """Asks for the statistics at each scrape."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = self._statistics()
        exports, hooks = found["exports"], found["hooks"]
        yield GaugeMetricFamily("frontswap_clients", "connections that have an export", found["clients"])
        requests = CounterMetricFamily("frontswap_export_requests", "requests", labels=["export", "request"])
        moved = CounterMetricFamily("frontswap_export_bytes", "bytes of clients", labels=["export", "direction"])
        for export in exports:
            for name in _REQUESTS:
                requests.add_metric([export["name"], name], export[name])
            for name in _BYTES:
                moved.add_metric([export["name"], name.removesuffix("_bytes")], export[name])
        yield requests
        yield moved
        for name, what in _EXPORT_COUNTERS.items():
            counter = CounterMetricFamily(f"frontswap_export_{name}", what, labels=["export"])
            for export in exports:
                counter.add_metric([export["name"]], export[name])
            yield counter
        for key, (name, what) in _EXPORT_GAUGES.items():
            gauge = GaugeMetricFamily(f"frontswap_export_{name}", what, labels=["export"])
            for export in exports:
                gauge.add_metric([export["name"]], export[key])
            yield gauge
        for name, what in _HOOKS_COUNTERS.items():
            yield CounterMetricFamily(f"frontswap_{name}", what, hooks[name])
        for name, what in _HOOKS_GAUGES.items():
            yield GaugeMetricFamily(f"frontswap_{name}", what, hooks[name])
        refusals = CounterMetricFamily("frontswap_refusals", "pages refused by a backend", labels=["reason"])
        for reason, count in hooks["refusals"].items():
            refusals.add_metric([reason], count)
        yield refusals


def check_metrics() -> None:
    """MissingPackageError: there will be no metrics."""
    find_package("prometheus_client", "metrics")


def metrics(statistics: Statistics) -> Answer:
    """The answer to /metrics, in the format that who asks accepts. MissingPackageError: when it is asked for."""

    def answer(headers: Message, _: Any) -> tuple[str, bytes]:
        check_metrics()
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry()
        registry.register(_Collector(statistics))
        encode, kind = choose_encoder(headers.get("Accept", ""))
        return kind, encode(registry)

    return answer
