"""The curves as a picture: how often each policy misses, from few pages of room to many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .curves import OPTIMUM, Replay

if TYPE_CHECKING:  # matplotlib is needed for nothing else, and late
    from matplotlib.axes import Axes

EXTRA = "replay"  # of pyproject.toml: what brings matplotlib
# Okabe and Ito's colours, which everybody can tell apart; the last is the optimum's
COLOURS = ("#999999", "#56b4e9", "#000000", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#0072b2", "#f0e442")
BEYOND = "#eeeeee"


def draw(replays: Sequence[Replay], path: Path) -> None:
    """Draw into a PNG file, a panel for each trace."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    across = min(len(replays), 3)
    down = -(-len(replays) // across)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(1.6 + 4.4 * across if across > 1 else 7.5, 3.4 * down + 0.6), dpi=120)
        figure.set_layout_engine("constrained")
        panels = figure.subplots(down, across, squeeze=False).flat
        for axes, one in zip(panels, replays, strict=False):
            _curves(axes, one)
        lines, labels = panels[0].get_legend_handles_labels()
        for axes in list(panels)[len(replays) :]:
            axes.axis("off")
        figure.legend(lines, labels, loc="outside right upper", frameon=False)
        figure.savefig(path)


def _curves(axes: Axes, one: Replay) -> None:
    share = [100 * size / one.pages for size in one.sizes]
    best = [100 * ratio for ratio in one.miss_ratios(OPTIMUM)]
    axes.fill_between(share, best, color=BEYOND, linewidth=0, label="beyond reach")
    for colour, name in zip(COLOURS, one.misses, strict=False):
        ratios = [100 * ratio for ratio in one.miss_ratios(name)]
        if name == OPTIMUM:
            axes.plot(share, ratios, marker=".", ms=4, label=name, color="#555555", ls="--", lw=1.2)
        else:
            axes.plot(share, ratios, marker=".", ms=4, label=name, color=colour, lw=1.4)
    axes.axhline(100 * one.cold / one.references, color="#bbbbbb", lw=0.8, ls=":", label="first uses")
    axes.set_title(f"{one.trace}: {one.references:,} references, {one.pages:,} pages")
    axes.set_xlabel("room, % of all pages")
    axes.set_ylabel("misses, % of references")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
