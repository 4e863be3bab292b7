"""The curves as tables, and how far a run is while it runs."""

from __future__ import annotations

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .curves import MEASURE, OPTIMUM, Replay


def progress() -> Progress:
    """On stderr, and only where somebody looks."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def title(found: Replay) -> Text:
    """What was run, and what the numbers are."""
    return Text.assemble(
        (f"{found.trace}: {found.references:,} references to {found.pages:,} pages\n", "bold"),
        f"First uses, which nobody can avoid: {_percent(found.cold, found.references)}%. Misses in % of references; ",
        ("bold", "bold"),
        f": the fewest but {OPTIMUM}'s; ",
        ("red", "red"),
        f": more than {MEASURE}'s.",
    )


def curves(found: Replay) -> Table:
    """A row for each size, a column for each policy."""
    made = Table(box=SIMPLE_HEAD, padding=0)
    made.add_column("pages", justify="right")
    made.add_column("of all", justify="right")
    for name in found.misses:
        made.add_column(name, justify="right", style="dim" if name == OPTIMUM else "")
    for at, size in enumerate(found.sizes):
        misses = {name: counts[at] for name, counts in found.misses.items()}
        cells = [_cell(name, misses, found.references) for name in misses]
        made.add_row(f"{size:,}", f"{100 * size / found.pages:.3g}%", *cells)
    return made


def comparison(found: Replay) -> Table:
    """A row for each policy: how near it comes to the optimum, and whether it is ever worse than LRU."""
    made = Table(box=SIMPLE_HEAD, padding=0)
    made.add_column("")
    made.add_column(f"hits, least % of {OPTIMUM}'s", justify="right")
    made.add_column("mean %", justify="right")
    made.add_column(f"sizes worse than {MEASURE}", justify="right")
    for name, counts in found.misses.items():
        if name != OPTIMUM:
            shares = [100 * share for share in found.share(name) if share is not None] or [100.0]
            worse = sum(map(int.__gt__, counts, found.misses[MEASURE]))
            mean = f"{sum(shares) / len(shares):.1f}"
            made.add_row(name, f"{min(shares):.1f}", mean, f"{worse} of {len(counts)}" if name != MEASURE else "")
    return made


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"


def _cell(name: str, misses: dict[str, int], references: int) -> Text:
    counts = [count for one, count in misses.items() if one != OPTIMUM]
    best = misses[name] == min(counts) < max(counts)
    style = "" if name == OPTIMUM else "red" if misses[name] > misses[MEASURE] else "bold" if best else ""
    return Text(_percent(misses[name], references), style)
