"""``frontswap stats``: the counters of a process, for people (a table), scripts (JSON, debugfs) and eyes.

A process is found by the directory that it keeps (``run --debugfs``), a server by its control socket (``serve``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import ParameterError
from ..nbd.asking import ask
from ..nbd.control import servers
from ..sizes import format_size
from .debugfs import DETAILS, NAMES, default_directory, read


def show(where: Path | None, *, debugfs: bool, as_json: bool, console: Console | None = None) -> None:
    """Print the counters of a process: the one that keeps `where` (a directory), or the server that listens there.

    None: of the default directory, and of all servers of this user.

    Raises:
        ParameterError: nobody has left anything there; or several have, and only one can be shown.
        ControlError: the server does not answer.
    """
    out = console or Console()
    found = [_of(where)] if where is not None else _of_this_user(only=debugfs or as_json)
    if debugfs:
        counters = found[0]["hooks"] if "exports" in found[0] else found[0]
        for name in NAMES:
            print(f"{name}:{counters[name]}")
    elif as_json:
        print(json.dumps(found[0], indent=2))
    else:
        for title, rows in (table for one in found for table in tables(one)):
            table = Table("", *rows, title=title, title_justify="left")
            for key in dict.fromkeys(key for row in rows.values() for key in row):
                table.add_row(key, *(str(row.get(key, "")) for row in rows.values()))
            out.print(table)


def _of(where: Path) -> dict[str, Any]:
    if where.is_socket():
        found: dict[str, Any] = ask(where, "/statistics")
        return found
    return read(where)


def _of_this_user(*, only: bool) -> list[dict[str, Any]]:
    directory = default_directory()
    places = [*servers()]
    if (directory / DETAILS).exists() or not places:
        places.insert(0, directory)
    if only and len(places) > 1:
        raise ParameterError("DIR", None, f"one of {', '.join(map(str, places))}")
    return [_of(place) for place in places]


def tables(found: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Titles, and what to show in the columns below them."""
    if "exports" in found:
        return _server_tables(found)
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


def _server_tables(found: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """A server's exports by name, and what is behind all of them."""
    hooks = found["hooks"]
    columns = {
        repr(export["name"]): {
            key: n if key != "size" and not key.endswith("_bytes") else "none" if n < 0 else format_size(n)
            for key, n in export.items()
            if key != "name"
        }
        for export in found["exports"]
    }
    kept = {key: format_size(n) for key, n in hooks.items() if key.endswith("_bytes")}
    counters = {key: n for key, n in hooks.items() if isinstance(n, int) and n and key not in kept}
    refused = {f"refused: {why}": n for why, n in hooks["refusals"].items() if n}
    return [
        (f"server {found['pid']}, {found['clients']} clients: exports", columns),
        ("all exports", {"": kept | counters | refused}),
        *_backends(hooks["backends"]),
    ]


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
