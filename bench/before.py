"""`python -m bench.before PYTHON`: the steps of `python -m bench`, on this frontswap and on that of another checkout.

PYTHON is an interpreter in which the other one is installed. The children run this checkout's bench, a step's data and
limits are the same, and the sides take turns: what differs is frontswap.
"""

import argparse
import dataclasses
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from bench import native, subjects
from bench.__main__ import MIB, directory
from bench.command import parser, run
from bench.data import KINDS
from bench.environment import choose_sort
from bench.missing import Missing
from bench.rounds import Pair
from bench.run import PASS, Plan, Record
from bench.run import run as measure
from bench.sheet import Sheet, number

GOAL = 1.03  # times what it took before
OURS = subjects.subject("frontswap")
STEPS = (*PASS, "sort")
NOTES = """\
Each round runs every step on both sides, each in a fresh process with the same limit in a memory cgroup of its own; the
side that is first changes. Seconds of a pass, microseconds of a random access (mean). "ratio": now to before in the
same round, the median, and in brackets where it lies with a probability of 95% (with few rounds: the extremes); the
goal is 1.03, "missed" where all of it is above."""


def version(python: Path) -> str:
    """What is installed there; Missing if nothing is."""
    code = "import frontswap; print(frontswap.__file__)"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise Missing(f"a frontswap in {python}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def value(record: Record, step: str) -> float:
    """What a step took."""
    return record.steps[step]["mean_us" if step.startswith("random") else "seconds"]


def compare(chosen: argparse.Namespace, console: Console, folder: Path) -> tuple[list[Sheet], int]:
    """Measure; 1 for a wrong byte or a side that failed."""
    subjects.check(OURS, chosen.dir, 2048 * MIB)
    console.print(f"before: {version(chosen.python)}", markup=False, highlight=False)
    before = dataclasses.replace(OURS, name="before", python=str(chosen.python))
    choose_sort()
    small = chosen.quick
    library = native.build(folder)
    records: list[Record] = []

    def said(record: Record) -> None:
        console.print(
            f"{record.work} {record.data} {record.round} {record.subject}: {record.trouble or 'ok'}", markup=False
        )

    for turn in range(1 if small else chosen.rounds):
        plan = Plan(
            subjects=(before, OURS) if turn % 2 == 0 else (OURS, before),
            kinds=chosen.data,
            steps=chosen.steps,
            rounds=1,
            size=(256 if small else 2048) * MIB,
            sort_size=(128 if small else 1024) * MIB,
            memory_size=(128 if small else 1024) * MIB,
            limit=(64 if small else 512) * MIB,
            touches=10_000 if small else 100_000,
            touch_seconds=3 if small else 10,
            timeout=600,
            folder=chosen.dir.resolve(),
        )
        records += measure(plan, library, said)
    return [sheet(records)], int(any(record.trouble for record in records))


def sheet(records: list[Record]) -> Sheet:
    """Every step of every kind of data, paired by round."""
    sides: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: {"before": [], OURS.name: []})
    for record in records:
        for step in record.steps:
            if record.work == "sort" and step != "sort":
                continue  # its fill is that of half the size
            sides[record.data, step][record.subject].append(value(record, step))
    rows, kept = [], []
    for (kind, step), side in sides.items():
        rounds = min(map(len, side.values()))
        if rounds == 0:
            continue
        pair = Pair(side["before"][:rounds], side[OURS.name][:rounds])
        ratio = pair.ratio()
        verdict = "missed" if ratio.low > GOAL else ""
        medians = [number(statistics.median(values)) for values in (pair.base, pair.ours)]
        rows.append((kind, step, *medians, f"{ratio.text(3)} {verdict}".strip(), str(rounds)))
        kept.append({"data": kind, "step": step, "verdict": verdict, **pair.record()})
    head = ("data", "step", "before", "now", "ratio (95%)", "rounds")
    return Sheet("Beside an earlier frontswap: 2 GiB (sort: 1) in 512 MiB", head, rows, NOTES, kept)


def steps(text: str) -> tuple[str, ...]:
    """Names of steps; a step works on what the one before has left, "fill" has to be first."""
    chosen = tuple(text.split(","))
    if not set(chosen) <= set(STEPS) or chosen[0] != "fill":
        raise argparse.ArgumentTypeError(f"{text!r}: some of {','.join(STEPS)}, fill first")
    return chosen


def main() -> int:
    made = parser("before", __doc__, "256 MiB in 64 MiB, one round")
    made.add_argument("python", type=Path, help="an interpreter that has the other frontswap")
    made.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    made.add_argument("--dir", type=directory, default=Path("/var/tmp"), help="for the swap file (default %(default)s)")
    made.add_argument(
        "--data",
        type=lambda text: tuple(text.split(",")),
        default=tuple(kind.name for kind in KINDS),
        metavar="NAME,...",
        help="kinds of data (default all)",
    )
    made.add_argument("--steps", type=steps, default=STEPS, metavar="NAME,...", help="(default all)")
    chosen = made.parse_args()
    chosen.python = chosen.python.absolute()
    return run("before", chosen, chosen.dir, lambda console, folder: compare(chosen, console, folder))


if __name__ == "__main__":
    raise SystemExit(main())
