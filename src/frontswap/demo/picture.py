"""The picture: the traffic that was computed, and the memory it was computed in."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..sizes import format_size
from .analysis import CELLS_PER_DEGREE, EAST, MAP_SHAPE, SOUTH, WEST
from .flights import DAY, EST
from .run import Report
from .screen import COMPRESSED, ON_DISK, RESIDENT, title

if TYPE_CHECKING:  # matplotlib is needed for nothing else, and late
    from matplotlib.axes import Axes

BACKGROUND, TEXT, LIMIT, RSS = "#0d1117", "#c9d1d9", "#ff4d4d", "#ffffff"
MAP_LIMITS = (-127.0, -66.0, 23.5, 49.5)  # what most flights cross
NAMED_AIRPORTS = 24
NAME_GAP = 1.7  # degrees between names
MIB = 1 << 20


def draw_map(axes: "Axes", report: Report) -> None:
    """Draw airborne minutes per cell, the airports, and where the closest pairs met."""
    flights, density = report.flights, report.results.density
    north = SOUTH + MAP_SHAPE[0] / CELLS_PER_DEGREE
    shown = axes.imshow(
        np.log10(np.where(density > 0, density, np.nan)),
        origin="lower",
        extent=(EAST, WEST, SOUTH, north),
        aspect=1 / np.cos(np.radians(39)),
        cmap="inferno",
        vmin=-1,  # 1 is not yet black
        interpolation="nearest",
    )
    colors = axes.figure.colorbar(shown, ax=axes, fraction=0.025, pad=0.01)
    powers = range(int(np.log10(max(density.max(), 1))) + 1)
    colors.set_ticks([float(power) for power in powers], labels=[f"{10**power:,}" for power in powers])
    colors.set_label("airborne minutes per cell of 1/12 degree")
    colors.ax.set_ylim(0, None)
    colors.ax.tick_params(length=0)
    colors.outline.set_visible(False)

    axes.set_xlim(MAP_LIMITS[:2])
    axes.set_ylim(MAP_LIMITS[2:])

    airports = flights.airports
    served = np.bincount(flights.destination, minlength=airports.code.size)
    named: list[tuple[float, float]] = []
    for index in np.argsort(-served, kind="stable")[:NAMED_AIRPORTS]:
        place = float(airports.longitude[index]), float(airports.latitude[index])
        if all(np.hypot(place[0] - x, place[1] - y) > NAME_GAP for x, y in named):
            named.append(place)
            axes.annotate(
                airports.code[index].decode(), place, xytext=(4, -10), textcoords="offset points", fontsize=9,
                color="white", annotation_clip=True,
            )  # fmt: skip
    closest = report.results.closest()
    axes.scatter(
        closest["longitude"], closest["latitude"], s=70, facecolors="none", edgecolors="#58d6ff", linewidths=1.2,
        label=f"the {closest.size} closest pairs that crossed each other's way",
    )  # fmt: skip
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set_title(
        f"{flights.rows:,} airborne minutes of {flights.start.size:,} flights from New York City, 2013; "
        "the ways to Honolulu and Anchorage leave the map"
    )
    axes.set_xticks([])
    axes.set_yticks([])


def draw_year(axes: "Axes", report: Report) -> None:
    """Draw the flights in the air, a column per day and a row per minute of it."""
    counts = report.results.per_minute[EST:]
    days = -(-counts.size // DAY)
    table = np.zeros(days * DAY)
    table[: counts.size] = counts
    shown = axes.imshow(
        table.reshape(days, DAY).T, origin="lower", aspect="auto", cmap="viridis", extent=(0, days, 0, 24),
        interpolation="nearest",
    )  # fmt: skip
    colors = axes.figure.colorbar(shown, ax=axes, fraction=0.025, pad=0.01)
    colors.outline.set_visible(False)
    axes.set_yticks([0, 6, 12, 18, 24])
    axes.set_ylabel("hour, EST")
    axes.set_xlabel("day of the year")
    axes.set_title("Flights in the air, each minute")


def draw_memory(axes: "Axes", report: Report) -> None:
    """Draw what was where while the job ran."""
    samples = report.samples
    seconds = [sample.seconds for sample in samples]
    axes.stackplot(
        seconds,
        [sample.resident / MIB for sample in samples],
        [sample.pool / MIB for sample in samples],
        [sample.swapped / MIB for sample in samples],
        labels=["resident", "compressed in RAM", "on disk"],
        colors=[RESIDENT, COMPRESSED, ON_DISK],
    )
    axes.plot(seconds, [s.allocated / MIB for s in samples], color=TEXT, lw=1, ls=":", label="arrays")
    axes.plot(seconds, [s.rss / MIB for s in samples], color=RSS, lw=1, label="RSS of the process (kernel)")
    axes.axhline(report.limit / MIB, color=LIMIT, lw=1.5, ls="--", label=f"limit, {format_size(report.limit)}")
    top = 1.25 * max(sample.allocated for sample in samples) / MIB
    for number, phase in enumerate(report.phases):
        axes.axvline(phase.begin.seconds, color=TEXT, lw=0.6, alpha=0.6)
        # in three lines: short phases must not write over each other
        height = top * (0.985 - 0.06 * (number % 3))
        late = phase.begin.seconds > 0.8 * seconds[-1]
        axes.text(
            phase.begin.seconds, height, f" {phase.name} ", va="top", ha="right" if late else "left", fontsize=9
        )  # fmt: skip
    axes.set_xlim(0, seconds[-1])
    axes.set_ylim(0, top)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.set_title("Memory")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=6, frameon=False, fontsize=9)


def draw(report: Report, path: Path) -> None:
    """Draw all of it into a PNG file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "figure.facecolor": BACKGROUND,
            "axes.facecolor": BACKGROUND,
            "axes.edgecolor": TEXT,
            "axes.labelcolor": TEXT,
            "text.color": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
            "font.size": 9,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
        }
    ):
        figure = Figure(figsize=(12, 13), dpi=130, layout="constrained")
        rows = figure.subplots(3, 1, height_ratios=(6.2, 1.9, 2.9))
        draw_map(rows[0], report)
        draw_year(rows[1], report)
        draw_memory(rows[2], report)
        figure.suptitle(title(report.flights.rows, report.table_bytes, report.limit), fontsize=14, fontweight="bold")
        figure.savefig(path)
