"""The demonstration from beginning to end: load, work, check."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .. import Memory
from ..errors import ParameterError
from ..sizes import parse_size
from . import analysis
from .checks import Check, Results, compare
from .flights import Flights, load
from .meter import PAGE, Meter, Phase, Sample
from .reference import Months, check_months

SMALLEST_LIMIT, LARGEST_LIMIT = 16 << 20, 256 << 20  # that are taken unasked
ROW_BYTES = 24  # two float64, two int32

Watch = Callable[[Flights, Meter], AbstractContextManager[object]]


@dataclass(frozen=True)
class Report:
    """What came of it."""

    flights: Flights
    table_bytes: int
    limit: int
    results: Results
    checks: list[Check]
    phases: list[Phase]
    samples: list[Sample]
    load_seconds: float

    @property
    def ratio(self) -> float:
        """Uncompressed by compressed size of the pool, mean over time."""
        return sum(sample.stored for sample in self.samples) / max(sum(sample.pool for sample in self.samples), 1)

    @property
    def most_held(self) -> int:
        """The most RAM the arrays had, resident and compressed together."""
        return max(sample.in_ram for sample in self.samples)

    @property
    def limit_held(self) -> bool:
        """Whether that was within the limit."""
        return self.most_held <= self.limit

    @property
    def passed(self) -> bool:
        """Whether all results are right, and were found within the limit."""
        return self.limit_held and all(check.passed for check in self.checks)


def choose_limit(limit: str | None, table_bytes: int) -> int:
    """Take the limit as given, or a quarter of the table."""
    if limit is not None:
        return parse_size(limit, "limit")
    return min(max(table_bytes // 4, SMALLEST_LIMIT), LARGEST_LIMIT)


def work(flights: Flights, memory: Memory, meter: Meter) -> tuple[Results, Months]:
    """Do the job in the pager's memory, and let the reference look at the table before it is gone."""
    with memory:
        with meter.phase("expand"):
            table = analysis.expand(flights)
        with meter.phase("sort by minute"):
            analysis.sort_by_minute(flights, table)
        with meter.phase("traffic density"):
            per_minute = analysis.per_minute(table, flights.end)
            density = analysis.density(table)
        with meter.phase("closest pairs"):
            encounters = analysis.encounters(flights, table)
    # outside of `with memory`, and in threads that never were inside: ordinary memory
    with meter.phase("check, month by month"):
        months = check_months(flights, table)
    return Results(per_minute.copy(), density.copy(), encounters.copy()), months


def run(watch: Watch, limit: str | None = None, size: float = 1.0, swap: str | None = None) -> Report:
    """Run it on the first `size` of the year."""
    if not 0.0 < size <= 1.0:
        raise ParameterError("size", size, "a part of the year, above 0 and at most 1")
    began = time.perf_counter()
    flights = load(size)
    loaded = time.perf_counter()
    table_bytes = flights.rows * ROW_BYTES
    memory = Memory(limit=choose_limit(limit, table_bytes), swap=swap or "auto", page=PAGE)
    with Meter(memory) as meter, watch(flights, meter):
        results, months = work(flights, memory, meter)
    memory.close()
    return Report(
        flights=flights,
        table_bytes=table_bytes,
        limit=meter.limit,
        results=results,
        checks=compare(flights, results, months),
        phases=meter.phases,
        samples=meter.samples,
        load_seconds=loaded - began,
    )
