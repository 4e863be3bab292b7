"""What a run leaves: tables in the terminal, Markdown, JSON. The numbers come from results.py."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bench.data import kind
from bench.metadata import MOST_FOR_ARENA, MOST_PER_PAGE
from bench.results import Cell, Table, Verdict, tables, verdicts
from bench.run import Plan, Record
from bench.subjects import ZRAM, subject

MIB = 1 << 20
EXPLAINED = """\
Medians of {rounds} interleaved round(s); in brackets the ratio to zram-lz4, "worse" where it loses.
`frontswap`: the limit holds resident and compressed pages together. `frontswap-ram`: the limit is what zram
really used, its pool included, which the kernel charges to nobody. `-4k`: 4 KiB pages."""


def title(table: Table, plan: Plan) -> str:
    """Say what the table is about."""
    if table.work == "sort":
        return f"In-place sort of {plan.sort_size // MIB} MiB {table.data} in {plan.limit // MIB} MiB"
    return f"{table.data}, {plan.size // MIB} MiB in {plan.limit // MIB} MiB: {kind(table.data).what}"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cell(one: Cell, *, base: bool) -> str:
    """Write value and ratio, or why there is none."""
    if one.value is None:
        return one.failed or "-"
    text = number(one.value)
    if not base and one.to_zram is not None:
        text += f" ({number(one.to_zram)}x{' worse' if one.loses else ''})"
    return f"{text}, but {one.failures} x {one.failed}" if one.failed else text


@dataclass(frozen=True)
class Shown:
    """A table in words; beside each text whether it is a bad one."""

    title: str
    head: tuple[str, ...]
    rows: list[list[tuple[str, bool]]]


def shown(all_tables: Sequence[Table], plan: Plan) -> list[Shown]:
    """Every table of its own, but what the memory is for in one: a row for each kind of data."""
    made = [
        Shown(
            title(table, plan),
            ("", *table.subjects),
            [[(metric.title, False), *_texts(table, cells)] for metric, cells in table.rows],
        )
        for table in all_tables
        if table.work != "memory"
    ]
    if packed := [table for table in all_tables if table.work == "memory"]:
        names = tuple(dict.fromkeys(name for table in packed for name in table.subjects))
        rows = []
        for table in packed:
            texts = dict(zip(table.subjects, _texts(table, table.cells("memory")), strict=True))
            disk = dict(zip(table.subjects, table.cells("memory-disk"), strict=True))
            row = [(f"{table.data}", False)]
            for name in names:
                text, bad = texts.get(name, ("", False))
                there = disk[name].value if name in disk else None
                row.append((f"{text}, {number(there)} on disk" if there and there >= 1 else text, bad))
            rows.append(row)
        made.append(Shown(f"MiB that keep a GiB, {plan.memory_size // MIB} MiB stored", ("", *names), rows))
    return made


def _texts(table: Table, cells: Sequence[Cell]) -> list[tuple[str, bool]]:
    return [
        (cell(one, base=name == ZRAM), one.loses or one.value is None)
        for name, one in zip(table.subjects, cells, strict=True)
    ]


def targets(found: Sequence[Verdict]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Write the targets' table: its head, and a row per target and subject, with a column per kind of data."""
    kinds = tuple(dict.fromkeys(one.data for one in found))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        sign = "at least" if one.metric.higher_is_better else "at most"
        what = f"{one.metric.name} {sign} {number(one.target.ratio)}x {one.target.peer}"
        rows.setdefault((what, one.subject), {})[one.data] = f"{number(one.ratio)}x {'met' if one.met else 'missed'}"
    return ("target", "subject", *kinds), [(*key, *(row.get(kind, "") for kind in kinds)) for key, row in rows.items()]


def metadata(beside: dict[str, Any]) -> str:
    """Write what bench.metadata found."""

    def judged(name: str) -> str:
        return "met" if beside[f"{name}_met"] else "missed"

    return (
        f"Metadata: {beside['bytes_per_page']:.3f} bytes per 4 KiB page beside the record "
        f"(at most {MOST_PER_PAGE}: {judged('bytes_per_page')}), "
        f"{beside['page_table_bytes_per_page']:.3f} of them in the page table. "
        f"An arena of {beside['arena']} takes {number(beside['arena_reserved_bytes'] / MIB)} MiB of RAM "
        f"(at most {MOST_FOR_ARENA // MIB}: {judged('arena')})."
    )


def show(console: Console, plan: Plan, records: Sequence[Record], beside: dict[str, Any] | None) -> None:
    """Print all tables."""
    all_tables = tables(records)
    for table in shown(all_tables, plan):
        console.print(f"\n{table.title}", style="bold", highlight=False)
        grid = Grid(*table.head)
        for line in table.rows:
            grid.add_row(*(Text(text, style="red" if bad else "") for text, bad in line))
        console.print(grid)
    if found := verdicts(all_tables):
        console.print("\nTargets", style="bold")
        head, rows = targets(found)
        grid = Grid(*head)
        for row in rows:
            grid.add_row(*(Text(text, style="red" if text.endswith("missed") else "") for text in row))
        console.print(grid)
    if beside:
        console.print(f"\n{metadata(beside)}", highlight=False)
    if records:
        console.print(EXPLAINED.format(rounds=plan.rounds), highlight=False)


def markdown(plan: Plan, records: Sequence[Record], where: dict[str, str], beside: dict[str, Any] | None) -> str:
    """Everything, to be pasted into a README."""
    day, machine = where["date"].split()[0], f"{where['cpu']}, Linux {where['kernel']}, NumPy {where['numpy']}"
    lines = [f"Measured on {day}: {machine}. Load before: {where['load before']}.", ""]
    all_tables = tables(records)
    for table in shown(all_tables, plan):
        lines += [f"**{table.title}**", ""]
        lines += _rows(table.head, [[text for text, _ in row] for row in table.rows])
    if found := verdicts(all_tables):
        lines += ["**Targets**", ""]
        lines += _rows(*targets(found))
    if beside:
        lines += [metadata(beside), ""]
    return "\n".join([*lines, EXPLAINED.format(rounds=plan.rounds), ""])


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def save(
    path: Path, plan: Plan, records: Sequence[Record], where: dict[str, str], beside: dict[str, Any] | None
) -> None:
    """Write everything as JSON, with every record as it was measured."""
    found = [
        {
            "data": one.data,
            "subject": one.subject,
            "metric": one.metric.name,
            "peer": one.target.peer,
            "ratio": one.ratio,
            "target": one.target.ratio,
            "met": one.met,
        }
        for one in verdicts(tables(records))
    ]
    document = {
        "environment": where,
        "plan": {
            **dataclasses.asdict(plan),
            "subjects": {chosen.name: subject(chosen.name).what for chosen in plan.subjects},
        },
        "targets": found,
        "metadata": beside,
        "records": [dataclasses.asdict(record) for record in records],
    }
    path.write_text(json.dumps(document, indent=1, default=str) + "\n")
