"""`python -m bench.hooks`: what the hooks of swap areas cost, without a backend and in front of one."""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench import allocations, answers, idle, overhead, scaling, sheet
from bench.__main__ import directory
from bench.environment import environment
from bench.missing import Missing
from bench.slots import Slots, build


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.hooks", description=__doc__)
    made.add_argument("--quick", action="store_true", help="fewer rounds: shows that all works, in 15 seconds")
    made.add_argument("--dir", type=directory, default=Path("/var/tmp"), help="for the slots (default /var/tmp)")
    made.add_argument("--out", type=Path, default=Path("build/bench"), help="for the results (default build/bench)")
    return made


def main() -> int:
    """Exit code 1: the hooks' own cost is above its goal."""
    chosen = parser().parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    where = environment(chosen.dir)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="frontswap-bench-") as name:
        folder = Path(name)
        try:
            slots = Slots(build("slots.c", folder))
            sheets = [
                idle.measure(chosen.dir, slots, 0.5 if chosen.quick else 8.0),
                overhead.measure(200 if chosen.quick else 5000),
                scaling.measure(slots, 5 if chosen.quick else 40),
                allocations.measure(folder),
                *answers.measure(5 if chosen.quick else 40),
            ]
        except Missing as what:
            console.print(f"skipped: this needs {what}", markup=False)
            return 0
        except KeyboardInterrupt:
            return 130
    sheet.show(console, sheets)
    stem = sheet.save(chosen.out, "hooks-quick" if chosen.quick else "hooks", sheets, where)
    console.print(f"saved: {stem}.json, .md", markup=False, highlight=False)
    return 1 if any(record["verdict"] == "missed" for record in sheets[1].records) else 0


if __name__ == "__main__":
    sys.exit(main())
