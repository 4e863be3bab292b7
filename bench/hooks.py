"""`python -m bench.hooks`: what the hooks of swap areas cost, without a backend and in front of one."""

import sys
from pathlib import Path

from rich.console import Console

from bench import allocations, answers, command, idle, overhead, scaling
from bench.__main__ import directory
from bench.sheet import Sheet
from bench.slots import Slots, build


def main() -> int:
    """Exit code 1: the hooks' own cost is above its goal."""
    parser = command.parser("hooks", __doc__, "fewer rounds, 15 seconds")
    parser.add_argument("--dir", type=directory, default=Path("/var/tmp"), help="for the slots (default %(default)s)")
    chosen = parser.parse_args()

    def measure(_: Console, folder: Path) -> tuple[list[Sheet], int]:
        slots = Slots(build("slots.c", folder))
        sheets = [
            idle.measure(chosen.dir, slots, 0.5 if chosen.quick else 8.0),
            overhead.measure(200 if chosen.quick else 5000),
            scaling.measure(slots, 5 if chosen.quick else 40),
            allocations.measure(folder),
            *answers.measure(5 if chosen.quick else 40),
        ]
        return sheets, 1 if any(record["verdict"] == "missed" for record in sheets[1].records) else 0

    return command.run("hooks", chosen, chosen.dir, measure)


if __name__ == "__main__":
    sys.exit(main())
