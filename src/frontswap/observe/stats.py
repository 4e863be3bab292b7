"""``frontswap stats``: the counters of a process, for people (a table), scripts (JSON, debugfs) and eyes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..sizes import format_size
from .debugfs import NAMES, default_directory, read


def show(directory: Path | None, *, debugfs: bool, as_json: bool, console: Console | None = None) -> None:
    """Print what a process keeps in `directory`."""
    out = console or Console()
    found = read(directory or default_directory())
    if debugfs:
        for name in NAMES:
            print(f"{name}:{found[name]}")
    elif as_json:
        print(json.dumps(found, indent=2))
    else:
        for title, rows in tables(found):
            table = Table("", *rows, title=title, title_justify="left")
            for key in dict.fromkeys(key for row in rows.values() for key in row):
                table.add_row(key, *(str(row.get(key, "")) for row in rows.values()))
            out.print(table)


def tables(found: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Titles, and what to show in the columns below them."""
    made: list[tuple[str, dict[str, dict[str, Any]]]] = [
        (f"process {found['pid']}", {"in all": {name: found[name] for name in NAMES}})
    ]
    for number, memory in enumerate(found["memories"]):
        gauges = {key: format_size(n) for key, n in memory.items() if key.endswith("_bytes") and n}
        counters = {key: n for key, n in memory.items() if isinstance(n, int) and not key.endswith("_bytes") and n}
        made.append((f"Memory {number}", {"": gauges | counters}))
        made += _backends(memory["backends"])
    for number, hooks in enumerate(found["hooks"]):
        if hooks["areas"]:
            made.append((f"hooks {number}: areas", {f"type {area['type']}": area for area in hooks["areas"]}))
        made += _backends(hooks["backends"])
    return made


def _backends(stacks: list[dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """A table for each stack, a column for each of its layers."""
    made = []
    for stack in stacks:
        columns = {}
        for layer in stack["layers"]:
            plain = {key: n for key, n in layer.items() if isinstance(n, int)}
            columns[layer["name"]] = plain | {f"refused: {why}": n for why, n in layer["refusals"].items() if n}
        made.append((f"{stack['spec']}: {stack['curr_pages']} pages", columns))
    return made
