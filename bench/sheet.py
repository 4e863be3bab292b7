"""A table of results: on the terminal, as Markdown, as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

BAD = ("worse", "missed", "WRONG")


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What one question has come to."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: str  # what a number is and is not; a sentence or more
    records: list[dict[str, Any]]  # the same numbers and those behind them, for the JSON


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(page: int) -> str:
    """Bytes of a page, for people."""
    return f"{page >> 20} MiB" if page >= 1 << 20 else f"{page >> 10} KiB"


def show(console: Console, sheets: Sequence[Sheet]) -> None:
    """Print all; what is worse or missed is red."""
    for sheet in sheets:
        console.print(f"\n{sheet.title}", style="bold", highlight=False)
        grid = Grid(*sheet.head)
        for row in sheet.rows:
            grid.add_row(*(Text(text, style="red" if text.endswith(BAD) else "") for text in row))
        console.print(grid)
        console.print(sheet.notes, highlight=False, markup=False)


def markdown(sheets: Sequence[Sheet], where: dict[str, str]) -> str:
    """Everything, to be pasted into a README."""
    day, machine = where["date"].split()[0], f"{where['cpu']}, Linux {where['kernel']}, NumPy {where['numpy']}"
    lines = [f"Measured on {day}: {machine}. Load before: {where['load before']}.", ""]
    for sheet in sheets:
        lines += [f"**{sheet.title}**", ""]
        lines += ["| " + " | ".join(row) + " |" for row in (sheet.head, ("---",) * len(sheet.head), *sheet.rows)]
        lines += ["", sheet.notes, ""]
    return "\n".join(lines)


def save(folder: Path, name: str, sheets: Sequence[Sheet], where: dict[str, str]) -> Path:
    """Write DATE-NAME.json and .md into `folder`; their path without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{datetime.now(UTC).strftime('%Y-%m-%d-%H%M')}-{name}"
    document = {"environment": where, "sheets": [dataclasses.asdict(sheet) for sheet in sheets]}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(sheets, where))
    return stem
