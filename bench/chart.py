"""The results as one picture: a row per kind of data, a panel per metric, a bar per subject."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.report import number
from bench.results import TARGETS, Cell, Metric, Table, tables
from bench.run import Plan, Record
from bench.subjects import SUBJECTS, ZRAM, Subject

SHOWN = ("fill", "scan", "rmw", "random", "random-p99", "random-write", "compression", "sort", "memory")
ABREAST = 4  # panels, where each kind of data has one alone
MIB = 1 << 20


def colour(subject: Subject) -> str:
    """Peers grey, frontswap blue, frontswap in the same RAM green; small pages paler."""
    peers = {"anonymous": "#dddddd", "zram": "#5b5b5b", "zswap": "#7d7d7d", "memmap": "#a8a8a8"}
    if subject.keeper in peers:
        return peers[subject.keeper]
    shades = ("#2f8f5b", "#8fcfae") if subject.same_ram else ("#2b6cb0", "#93bfe6")
    return shades[subject.page is not None]


def draw(path: Path, plan: Plan, records: Sequence[Record], date: str) -> None:
    """Draw into a PNG file; nothing where nothing was measured."""
    found = tables(records)
    names = [subject for subject in SUBJECTS if any(subject.name in table.subjects for table in found)]
    rows: dict[str, list[Panel]] = {}  # a sort stands in the row of its data
    for table in found:
        if shown := [Panel(table, metric, cells) for metric, cells in table.rows if metric.name in SHOWN]:
            rows.setdefault(table.data, []).extend(shown)
    if not rows:
        return
    lines = list(rows.values())
    if max(map(len, lines)) == 1:
        panels = [panel for (panel,) in lines]
        lines = [panels[at : at + ABREAST] for at in range(0, len(panels), ABREAST)]
    width = max(map(len, lines))
    figure, grid = plt.subplots(
        len(lines),
        width,
        squeeze=False,
        layout="constrained",
        figsize=(2.5 * width + 1.2, (0.2 * len(names) + 0.8) * len(lines) + 0.5),
    )
    for axes_row, row in zip(grid, lines, strict=True):
        for axes in axes_row[len(row) :]:
            axes.axis("off")
        for axes, panel in zip(axes_row, row, strict=False):
            _panel(axes, names, panel, labelled=axes is axes_row[0])
    sizes = {
        "pass": f"{plan.size // MIB} MiB in {plan.limit // MIB} MiB of RAM",
        "sort": f"sort: {plan.sort_size // MIB} MiB in {plan.limit // MIB} MiB",
        "memory": f"memory: {plan.memory_size // MIB} MiB stored",
    }
    done = "; ".join(text for work, text in sizes.items() if any(table.work == work for table in found))
    figure.suptitle(f"{done}. {date}, median of {plan.rounds}. Dotted: the target", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


class Panel(NamedTuple):
    """One metric on one kind of data."""

    table: Table
    metric: Metric
    cells: tuple[Cell, ...]


def _panel(axes: Axes, names: list[Subject], panel: Panel, *, labelled: bool) -> None:
    values = {name: shown.value for name, shown in zip(panel.table.subjects, panel.cells, strict=True)}
    lengths = [values.get(subject.name) or 0.0 for subject in names]
    reach = _reach(lengths)
    axes.barh([subject.name for subject in names], lengths, color=[colour(subject) for subject in names])
    for at, length in enumerate(lengths):
        if length > reach:  # runs off the panel
            axes.text(reach * 1.22, at, number(length), fontsize=7, va="center", ha="right", backgroundcolor="white")
        elif length:
            axes.text(length + reach * 0.02, at, number(length), fontsize=7, va="center")
    better = "more" if panel.metric.higher_is_better else "less"
    axes.set_title(f"{panel.table.data}: {panel.metric.title}\n({better} is better)", fontsize=8)
    axes.set_xlim(0, reach * 1.25)
    for goal in goals(panel):
        axes.axvline(goal, color="#c05621", linestyle=":", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(labelsize=7, labelleft=labelled)
    axes.spines[["top", "right"]].set_visible(False)


def goals(panel: Panel) -> list[float]:
    """Where the targets lie that are ratios to zram-lz4."""
    base = panel.table.value(ZRAM, panel.metric.name) or 0.0
    kept = (target for target in TARGETS if target.metric == panel.metric.name and target.peer == ZRAM)
    return [base * target.ratio for target in kept if base and panel.table.data in target.kinds]


def _reach(lengths: Sequence[float]) -> float:
    """Where the axis ends: bars that dwarf the median one run off the panel, and their numbers say how far."""
    measured = [length for length in lengths if length]
    return min(max(measured), 4 * statistics.median(measured)) if measured else 1.0
