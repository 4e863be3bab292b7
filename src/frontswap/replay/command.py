"""``frontswap replay``: from the options to the table, the picture and the JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ..extras import check_picture
from ..sizes import parse_page
from .curves import parse_policies, parse_sizes, replay
from .picture import EXTRA, draw
from .screen import comparison, curves, progress, title
from .traces import read


def show(
    path: Path,
    *,
    policies: str | None,
    sizes: str | None,
    page: str | None,
    form: str,
    column: str | None,
    operation: str | None,
    delimiter: str | None,
    png: Path | None,
    as_json: bool,
    console: Console | None = None,
) -> None:
    """Run a trace through policies, and show how often they miss."""
    out = console or Console(highlight=False)
    chosen = parse_policies(policies)
    bytes_of_page = None if page is None else parse_page(page)
    parse_sizes(sizes, 1)  # what is wrong in it is wrong for any trace
    if png is not None:
        check_picture(png, "png", EXTRA)
    with progress() as bars:
        reading = bars.add_task(f"reading {path.name}", total=None)
        trace = read(path, form=form, page=bytes_of_page, column=column, operation=operation, delimiter=delimiter)
        bars.remove_task(reading)
        wanted = parse_sizes(sizes, trace.count)
        records = len(trace.pages) * len(wanted) * len(chosen)
        running = bars.add_task(f"{len(chosen)} policies, {len(wanted)} sizes", total=records)
        found = replay(trace, chosen, wanted, lambda more: bars.advance(running, more))
    if png is not None:
        draw([found], png)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    out.print(title(found), curves(found), comparison(found))
    if png is not None:
        out.print(f"Picture: {png}", soft_wrap=True)
