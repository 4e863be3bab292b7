"""The demonstration on a terminal: progress while it runs, and what came of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..sizes import format_size
from .analysis import NEAR_KM
from .flights import EPOCH, Flights
from .meter import Meter, Phase, Rss, Sample
from .run import ROW_BYTES, Report

# the same in the picture
RESIDENT, COMPRESSED, ON_DISK = "#2a9d8f", "#e9c46a", "#5b76b8"
LABEL_WIDTH = 12
SIZE_WIDTH = 10
GB = 1e9
SPEED_SAMPLES = 10  # the speed of the moment is that of this many


def local_time(minute: int) -> str:
    """Write a minute as New York's clocks show it."""
    time = (EPOCH.item() + timedelta(minutes=int(minute))).replace(tzinfo=ZoneInfo("UTC"))
    return f"{time.astimezone(ZoneInfo('America/New_York')):%a %d %b %H:%M}"


def title(rows: int, table_bytes: int, limit: int) -> str:
    """Say what is done to how much in how little."""
    return (
        f"frontswap demo: {rows:,} rows, {format_size(table_bytes)}, in {format_size(limit)} of RAM "
        f"(1 : {table_bytes / limit:.1f})"
    )


def phase_table(phases: list[Phase], now: Sample | None = None) -> Table:
    """List the phases; one that still runs ends `now`."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", width=1)
    table.add_column("phase", min_width=24)
    for heading in ("seconds", "faults", "out + in", "GB/s"):
        table.add_column(heading, justify="right", min_width=9)
    for phase in phases:
        end = phase.end if phase.done or now is None else now
        seconds, moved = end.seconds - phase.begin.seconds, end.moved - phase.begin.moved
        table.add_row(
            "[green]✓[/]" if phase.done else "[yellow]▸[/]",
            phase.name,
            f"{seconds:.1f}",
            f"{end.faults - phase.begin.faults:,}",
            format_size(moved),
            f"{moved / max(seconds, 1e-9) / GB:.2f}",
            style="" if phase.done else "bold",
        )
    return table


def bar(label: str, size: int, scale: int, width: int, color: str) -> Text:
    """Draw one size as a bar."""
    length = round(width * min(size / scale, 1.0))
    return Text.assemble(
        f"{label:{LABEL_WIDTH}}",
        f"{format_size(size):>{SIZE_WIDTH}} ",
        ("█" * length, color),
        ("·" * (width - length), "dim"),
    )


def progress(flights: Flights, meter: Meter, width: int) -> RenderableType:
    """Draw the moment."""
    now = meter.samples[-1]
    scale = max(meter.most_allocated(), meter.limit)
    room = min(width, 100) - LABEL_WIDTH - SIZE_WIDTH - 6
    earlier = meter.samples[-min(len(meter.samples), SPEED_SAMPLES)]
    speed = (now.moved - earlier.moved) / max(now.seconds - earlier.seconds, 1e-9) / GB
    numbers = Text(
        f"RSS {format_size(now.rss)}   ratio {now.stored / max(now.pool, 1):.2f}   "
        f"faults {now.faults:,}   refaults {now.refaults:,}   {speed:.2f} GB/s",
        "dim",
    )
    bars = [
        bar("allocated", now.allocated, scale, room, "white"),
        bar("limit", meter.limit, scale, room, "bold red"),
        bar("resident", now.resident, scale, room, RESIDENT),
        bar("compressed", now.pool, scale, room, COMPRESSED),
        bar("on disk", now.swapped, scale, room, ON_DISK),
    ]
    return Panel(
        Group(phase_table(meter.phases, now), "", *bars, "", numbers),
        title=title(flights.rows, flights.rows * ROW_BYTES, meter.limit),
        box=box.ROUNDED,
        width=min(width, 100),
    )


class Screen:
    """Shows a run on a console. Not on a terminal, it shows the end only."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def watch(self, flights: Flights, meter: Meter) -> Iterator[None]:
        """Show progress for as long as the job runs."""
        with Live(
            console=self._console,
            get_renderable=lambda: progress(flights, meter, self._console.width),
            refresh_per_second=8,
            transient=True,
        ):
            yield

    def show(self, report: Report, rss: Rss, picture: Path, seconds: float) -> None:
        """Show what came of it."""
        flights, found = report.flights, report.results.encounters.size
        self._console.print(Text(title(flights.rows, report.table_bytes, report.limit), "bold"), end="\n\n")
        for heading, body in (
            ("Phases", phase_table(report.phases)),
            (f"{flights.start.size:,} flights; left out", left_out(flights)),
            ("Busiest minutes of the busiest days (New York time)", busiest(report)),
            (
                f"Closest crossings, of {found:,} within {NEAR_KM:g} km (on the map: there are no altitudes)",
                closest(report),
            ),
            ("Memory", memory(report, rss)),
            ("Checked against the same work done month by month in ordinary memory", checks(report)),
        ):
            self._console.print(Text(heading, "bold"), body, "", highlight=False)
        self._console.print(
            f"{seconds:.1f} s in all, {report.load_seconds:.1f} s of it reading the files; the picture is {picture}",
            highlight=False,
            soft_wrap=True,
        )


def pairs() -> Table:
    """Start a table of right-aligned names and what they are."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(justify="right", min_width=18)
    table.add_column()
    return table


def left_out(flights: Flights) -> Table:
    """Say which flights are missing, and why."""
    table = pairs()
    for reason, count in flights.left_out.items():
        table.add_row(f"{count:,}", reason)
    return table


def busiest(report: Report) -> Table:
    """Say when most flights were in the air."""
    table = pairs()
    for minute in report.results.busiest():
        table.add_row(local_time(minute), f"{report.results.per_minute[minute]} flights in the air")
    return table


def closest(report: Report) -> Table:
    """Say who crossed whose way."""
    table = pairs()
    for met in report.results.closest():
        who = " and ".join(report.flights.label(met[name]) for name in ("a", "b"))
        table.add_row(local_time(met["minute"]), f"{met['metres']:5.1f} m   {who}")
    return table


def memory(report: Report, rss: Rss) -> Table:
    """Say what it took."""
    samples = report.samples
    allocated = max(sample.allocated for sample in samples)
    moved = samples[-1].moved
    busy = sum(phase.seconds for phase in report.phases)
    table = pairs()
    table.add_row("limit", f"{format_size(report.limit)} for resident + compressed")
    verdict = "[green]within the limit[/]" if report.limit_held else "[bold red]ABOVE THE LIMIT[/]"
    table.add_row("held, at most", f"{format_size(report.most_held)}, as sampled: {verdict}")
    table.add_row(
        "peak RSS",
        f"{format_size(rss.peak)} ({rss.source}), {format_size(rss.before)} when it began",
    )
    table.add_row("arrays, at most", f"{format_size(allocated)}, {allocated / report.limit:.1f} times the limit")
    table.add_row("compression", f"{report.ratio:.2f}, mean over time")
    table.add_row("on disk, at most", format_size(max(sample.swapped for sample in samples)))
    table.add_row("faults", f"{samples[-1].faults:,}; pages that came back {samples[-1].refaults:,}")
    table.add_row(
        "out + in", f"{format_size(moved)} at {moved / max(busy, 1e-9) / GB:.2f} GB/s, the computing included"
    )
    return table


def checks(report: Report) -> Table:
    """Say whether it is right."""
    table = pairs()
    for check in report.checks:
        table.add_row(check.what, ("[green]right[/]  " if check.passed else "[bold red]WRONG[/]  ") + check.detail)
    return table
