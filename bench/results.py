"""From records to numbers: medians over the rounds, ratios to zram, targets. Pure: no clock, no files."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.data import KINDS
from bench.run import Record
from bench.subjects import SUBJECTS, ZRAM

MIB = 1 << 20


@dataclass(frozen=True)
class Metric:
    """One line of the table."""

    name: str
    title: str
    work: str
    higher_is_better: bool | None  # None: shown, not judged
    read: Callable[[Record], float | None]


def _step(step: str, value: str) -> Callable[[Record], float | None]:
    return lambda record: record.steps.get(step, {}).get(value)


def compression(record: Record) -> float | None:
    """Uncompressed bytes over the RAM that holds them, with all overhead, after the last pass that filled memory."""
    for step in ("scan", "fill"):
        sample = record.samples.get(step, {})
        for stored, pool in (("stored_bytes", "pool_bytes"), ("orig_data_size", "mem_used_total")):
            if sample.get(pool):
                return sample[stored] / sample[pool]
    return None


def memory(*what: str) -> Callable[[Record], float | None]:
    """MiB that it takes to keep a GiB."""

    def read(record: Record) -> float | None:
        step = record.steps.get("memory")
        return sum(step[name] for name in what) / step["size_bytes"] * 1024 if step else None

    return read


def _cpu(record: Record) -> float | None:
    return sum(step["cpu_seconds"] for step in record.steps.values()) if record.steps else None


METRICS = (
    Metric("fill", "fill, GB/s", "pass", True, _step("fill", "gb_per_s")),
    Metric("scan", "scan, GB/s", "pass", True, _step("scan", "gb_per_s")),
    Metric("rmw", "read-modify-write, GB/s", "pass", True, _step("rmw", "gb_per_s")),
    Metric("random", "random read, mean us", "pass", False, _step("random", "mean_us")),
    Metric("random-p50", "random read, p50 us", "pass", False, _step("random", "p50_us")),
    Metric("random-p99", "random read, p99 us", "pass", False, _step("random", "p99_us")),
    Metric("random-write", "random write, mean us", "pass", False, _step("random-write", "mean_us")),
    Metric("random-write-p50", "random write, p50 us", "pass", False, _step("random-write", "p50_us")),
    Metric("random-write-p99", "random write, p99 us", "pass", False, _step("random-write", "p99_us")),
    Metric("compression", "compression ratio", "pass", True, compression),
    Metric("ram", "RAM used in all, MiB", "pass", None, lambda record: record.ram / MIB),
    Metric("cpu", "CPU time of all steps, s", "pass", None, _cpu),
    Metric("memory", "memory for a GiB, MiB", "memory", False, memory("ram_bytes", "disk_bytes")),
    Metric("memory-disk", "of it on disk, MiB", "memory", None, memory("disk_bytes")),
    Metric("sort", "np.sort, s", "sort", False, _step("sort", "seconds")),
    Metric("sort-ram", "RAM used in all, MiB", "sort", None, lambda record: record.ram / MIB),
    Metric("sort-cpu", "CPU time of all steps, s", "sort", None, _cpu),
)


@dataclass(frozen=True)
class Cell:
    """A metric of one subject on one kind of data."""

    value: float | None
    to_zram: float | None = None
    loses: bool = False  # to zram-lz4
    failed: str | None = None  # why, if any round failed
    failures: int = 0


@dataclass(frozen=True)
class Table:
    """All cells of one workload on one kind of data: metrics down, subjects across."""

    work: str
    data: str
    subjects: tuple[str, ...]
    rows: tuple[tuple[Metric, tuple[Cell, ...]], ...]

    def cells(self, metric: str) -> tuple[Cell, ...]:
        """Of all subjects, in their order; empty ones if it was not measured."""
        return next((cells for row, cells in self.rows if row.name == metric), (Cell(None),) * len(self.subjects))

    def value(self, subject: str, metric: str) -> float | None:
        """Median of a metric, if it was measured."""
        return self.cells(metric)[self.subjects.index(subject)].value if subject in self.subjects else None


def tables(records: Iterable[Record]) -> list[Table]:
    """One table per workload and kind of data, in the order measured."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.work, record.data), []).append(record)
    return [_table(work, data, group) for (work, data), group in groups.items()]


def _table(work: str, data: str, records: list[Record]) -> Table:
    present = {record.subject for record in records}
    names = tuple(subject.name for subject in SUBJECTS if subject.name in present)
    rows = []
    for metric in METRICS:
        if metric.work == work:
            base = _median(metric, [record for record in records if record.subject == ZRAM]).value
            cells = tuple(
                _cell(metric, [record for record in records if record.subject == name], base) for name in names
            )
            if any(cell.value is not None for cell in cells):
                rows.append((metric, cells))
    return Table(work, data, names, tuple(rows))


def _median(metric: Metric, records: list[Record]) -> Cell:
    failed = [record.trouble for record in records if record.trouble]
    values = [value for record in records if not record.trouble and (value := metric.read(record)) is not None]
    return Cell(
        statistics.median(values) if values else None, failed=failed[0] if failed else None, failures=len(failed)
    )


def _cell(metric: Metric, records: list[Record], base: float | None) -> Cell:
    median = _median(metric, records)
    if median.value is None or not base or metric.higher_is_better is None:
        return median
    ratio = median.value / base
    loses = ratio < 1 if metric.higher_is_better else ratio > 1
    return dataclasses.replace(median, to_zram=ratio, loses=loses)


@dataclass(frozen=True)
class Target:
    """What the design sets out to reach, as a ratio to a peer."""

    metric: str
    ratio: float
    small_pages: bool | None = False  # set for 4 KiB pages; None: for all
    kinds: tuple[str, ...] = tuple(kind.name for kind in KINDS)
    peer: str = ZRAM


NUMERIC = tuple(kind.name for kind in KINDS if kind.numeric)

TARGETS = (
    Target("memory", 0.75, small_pages=None, kinds=NUMERIC),
    Target("memory", 1.02, small_pages=None, kinds=("text",)),
    Target("fill", 5),
    Target("scan", 8),
    Target("sort", 1 / 6),
    Target("random", 0.45, small_pages=True),
    Target("random-p99", 0.1, small_pages=True),
    Target("fill", 1.3, peer="memmap"),
    Target("scan", 1.3, peer="memmap"),
    Target("sort", 1 / 1.3, peer="memmap"),
)


@dataclass(frozen=True)
class Verdict:
    """A target, on one kind of data, for one subject."""

    data: str
    subject: str
    metric: Metric
    target: Target
    ratio: float

    @property
    def met(self) -> bool:
        """At the target or beyond."""
        return self.ratio >= self.target.ratio if self.metric.higher_is_better else self.ratio <= self.target.ratio


def verdicts(all_tables: Iterable[Table]) -> list[Verdict]:
    """Hold every measured frontswap subject against every target that is set for it."""
    found = []
    for table in all_tables:
        for target in TARGETS:
            metric = next(metric for metric in METRICS if metric.name == target.metric)
            base = table.value(target.peer, target.metric)
            if not base or table.data not in target.kinds:
                continue
            for subject in SUBJECTS:
                value = table.value(subject.name, target.metric)
                small = subject.page is not None
                ours = subject.keeper == "frontswap" and target.small_pages in {None, small}
                if ours and value is not None:
                    found.append(Verdict(table.data, subject.name, metric, target, value / base))
    return found
