"""`python -m bench`: what to measure, and where the results go."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from bench import cgroup, chart, metadata, native, report
from bench.command import names
from bench.data import KINDS
from bench.environment import choose_sort, environment
from bench.missing import Missing
from bench.run import STEPS, Plan, Record, run
from bench.subjects import SUBJECTS, ZRAM, Subject, check, subject

MIB = 1 << 20
RESULTS = Path("build/bench")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parse = argparse.ArgumentParser(prog="python -m bench", description=__doc__)

    parse.add_argument("--quick", action="store_true", help="256 MiB in 64 MiB, one round")
    parse.add_argument("--list", action="store_true", help="list subjects, data and steps, with what is missing here")
    parse.add_argument("--rounds", type=int, help="rounds, of which medians are taken (default 3; --quick: 1)")
    parse.add_argument("--only", help="steps to measure", **names(STEPS))
    parse.add_argument("--data", help="kinds of data", **names([kind.name for kind in KINDS]))
    parse.add_argument("--subjects", help="who to measure", **names([known.name for known in SUBJECTS]))
    parse.add_argument(
        "--dir",
        type=directory,
        default=Path("/var/tmp"),
        help="for memmap's file and the swap file (default %(default)s)",
    )
    parse.add_argument("--out", type=Path, default=RESULTS, help="for the results (default %(default)s)")
    parse.add_argument(
        "--timeout", type=float, default=600, help="seconds that one subject may take (default %(default)g)"
    )
    parse.add_argument("--perf", type=Path, metavar="DIR", help="record every child with perf, into this folder")
    return parse


def directory(text: str) -> Path:
    """Take a folder that exists."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def plan(chosen: argparse.Namespace, able: tuple[Subject, ...]) -> Plan:
    """Turn the command line into sizes and names."""
    small = chosen.quick
    return Plan(
        subjects=able,
        kinds=chosen.data,
        steps=chosen.only,
        rounds=chosen.rounds or (1 if small else 3),
        size=(256 if small else 2048) * MIB,
        sort_size=(128 if small else 1024) * MIB,
        memory_size=(128 if small else 1024) * MIB,
        limit=(64 if small else 512) * MIB,
        touches=10_000 if small else 100_000,
        touch_seconds=3 if small else 10,
        timeout=chosen.timeout,
        folder=chosen.dir.resolve(),
        perf=chosen.perf and chosen.perf.resolve(),
    )


def missing(candidate: Subject, chosen: argparse.Namespace, size: int) -> str | None:
    """Say what this subject lacks here, or nothing."""
    try:
        check(candidate, chosen.dir, size)
        cgroup.find()
        if candidate.same_ram:
            if ZRAM not in chosen.subjects:
                raise Missing(f"{ZRAM} among --subjects (its pool says how much RAM)")
            check(subject(ZRAM), chosen.dir, size)
    except Missing as what:
        return str(what)
    return None


def overview(console: Console, chosen: argparse.Namespace) -> None:
    """Print what there is."""
    size = plan(chosen, ()).size
    console.print("[bold]subjects[/bold]")
    for candidate in SUBJECTS:
        lack = missing(candidate, chosen, size)
        console.print(f"  {candidate.name:18}{candidate.what}" + (f" [red](needs {lack})[/red]" if lack else ""))
    console.print("[bold]data[/bold]")
    for kind in KINDS:
        console.print(f"  {kind.name:18}{kind.what}")
    console.print(f"[bold]steps[/bold]\n  {' '.join(STEPS)}")


def terminated(_signal: int, _frame: object) -> NoReturn:
    """End on SIGTERM as on Ctrl-C, so that everything is put back."""
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 1: a wrong byte, or frontswap failed where it must not."""
    chosen = parser().parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    if chosen.list:
        overview(console, chosen)
        return 0
    signal.signal(signal.SIGTERM, terminated)
    if chosen.perf and shutil.which("perf") is None:
        console.print("--perf needs perf, from linux-perf or linux-tools")
        return 2
    able, lacking = [], dict[str, list[str]]()
    for name in chosen.subjects:
        candidate = subject(name)
        if lack := missing(candidate, chosen, plan(chosen, ()).size):
            lacking.setdefault(lack, []).append(name)
        else:
            able.append(candidate)
    for lack, without in lacking.items():
        console.print(f"skipped: {', '.join(without)}; this needs {lack}", markup=False, highlight=False)
    if not able:
        return 0
    chosen_plan = plan(chosen, tuple(able))
    choose_sort()
    where = environment(chosen.dir)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), markup=False, highlight=False)
    if float(where["load before"]) > 0.3 * (os.cpu_count() or 1):
        console.print("this machine is busy: take no number of this run for granted", style="bold red")
    for folder in filter(None, (chosen.out, chosen.perf)):
        folder.mkdir(parents=True, exist_ok=True)

    def said(record: Record) -> None:
        outcome = record.trouble or "ok"
        line = f"{record.work} {record.data} {record.round}/{chosen_plan.rounds} {record.subject}"
        console.print(f"{line}: {outcome}, {record.seconds:.1f} s, {record.ram // MIB} MiB", markup=False)

    with tempfile.TemporaryDirectory(prefix="frontswap-bench-") as folder:
        try:
            library = native.build(Path(folder))
            records = run(chosen_plan, library, said)
            ours = any(member.keeper == "frontswap" for member in able)
            beside = metadata.measure() if ours and "metadata" in chosen_plan.steps else None
        except Missing as what:
            console.print(f"skipped: this needs {what}", markup=False)
            return 0
        except KeyboardInterrupt:
            console.print("interrupted; everything is put back")
            return 130
    report.show(console, chosen_plan, records, beside)
    stem = datetime.now(UTC).strftime("%Y-%m-%d-%H%M") + ("-quick" if chosen.quick else "")
    report.save(chosen.out / f"{stem}.json", chosen_plan, records, where, beside)
    (chosen.out / f"{stem}.md").write_text(report.markdown(chosen_plan, records, where, beside))
    chart.draw(chosen.out / f"{stem}.png", chosen_plan, records, where["date"])
    console.print(f"saved: {chosen.out / stem}.*", markup=False, highlight=False)
    return verdict(console, records)


def verdict(console: Console, records: Sequence[Record]) -> int:
    """Turn wrong bytes, and frontswap's failures, into the exit code."""
    bad = [
        record
        for record in records
        if record.wrong or (record.failed and subject(record.subject).keeper == "frontswap")
    ]
    for record in bad:
        console.print(
            f"FAILED: {record.subject} on {record.data}, round {record.round}: {record.trouble}",
            style="bold red",
            markup=False,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
