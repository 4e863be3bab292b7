"""`python -m bench.locks`: how long locks are held, beside a fault and beside compressing a page.

The question that the patchset was asked: what runs with interrupts off, and for how long? Here no lock is held while
a page is compressed, read or written; this measures it, with a core compiled to time its locks."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import command, native
from bench.environment import ROOT
from bench.sheet import Sheet, number, size

PAGES = (4096, 64 << 10, 2 << 20)
TOUCHES = {4096: 300_000, 64 << 10: 100_000, 2 << 20: 20_000}
DELAY = "1ms"
BACKENDS = {"": "zcache", DELAY: f"inject:delay={DELAY} / zcache"}
NEEDED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "licenses")
LOCK_NOTES = """\
Microseconds. A lock is timed from the moment it is taken until just before it is let go, one reading of the clock (0.03
us) in it. The core counts by powers of two, so p50 and p99.99 are upper bounds: the ends of their classes. "longest" is
exact, of the whole life of the Memory, and has in it whoever lost the processor while holding the lock: nothing keeps
a thread in user space from being preempted, and on two shared processors that takes milliseconds. "compress": one page
of that size, median, called from Python. If pages were compressed under a lock, its p50 would be that. "beyond": how
many holds were in the class of that time or above. queue_lock: the reclaim queue; request_lock: readahead's; log_lock:
segments and slots; arena_lock: allocation only, never in a fault (the swap file is reserved under it)."""
FAULT_NOTES = """\
Microseconds. One word changed in a random page of a float64 array of 512 MiB in 256 MiB, by one thread, timed in C: of
the touches those that were faults (the slowest, as many as the statistics count). All pages are dirty, so a page is
compressed for every one that comes in, by the reclaim thread or in the fault itself. p99.99 only with 20,000 faults and
more. The array is filled before the delay of 1 ms for each store and each load is switched on. A run ends after
{seconds} seconds, whatever the number of touches. The locks of this core read the clock, which costs a fault 0.2 us."""


def build(folder: Path, said: Console) -> Path:
    """Compile a copy of the package whose locks are timed; what to put on PYTHONPATH.

    Only files that differ are copied, so that a second run compiles what has changed."""
    source, copy = ROOT / "src", folder / "src"
    for path in [path for path in copy.rglob("*.py*") if not (ROOT / path.relative_to(folder)).exists()]:
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    for path in [*(ROOT / name for name in NEEDED), *source.rglob("*")]:
        to = folder / path.relative_to(ROOT)
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
        elif path.suffix not in {".so", ".pyc"} and not (to.exists() and filecmp.cmp(path, to, shallow=False)):
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    said.print(f"compiling the core with -DFS_LOCK_TIMES in {folder}", markup=False, highlight=False)
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -DFS_LOCK_TIMES".strip()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the core does not compile: {done.stderr[-2000:]}")
    return copy


def run(copy: Path, library: Path, page: int, delay: str, seconds: int, touches: int) -> dict[str, Any]:
    """One child; RuntimeError when it fails or hangs."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.lockchild", str(library), str(page), delay, str(seconds), str(touches)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(copy)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=4 * seconds + 60,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    found: dict[str, Any] = json.loads(done.stdout)
    if not Path(found["core"]).is_relative_to(copy):
        raise RuntimeError(f"measured {found['core']} instead of the core in {copy}")
    return found


def bound(held: list[int], part: float) -> int:
    """Nanoseconds that this part of all holds did not exceed: the end of its class, or the longest."""
    counts, longest = held[:-1], held[-1]
    wanted, seen = part * sum(counts), 0
    for bits, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return min((1 << bits) - 1, longest)
    return longest


def beyond(held: list[int], nanoseconds: float) -> int:
    """Holds that may have been longer: of its class and all above."""
    return sum(held[int(nanoseconds).bit_length() : -1])


def us(nanoseconds: float | None) -> str:
    """Microseconds, for people."""
    return "-" if nanoseconds is None else number(nanoseconds / 1000)


def locks_sheet(found: list[dict[str, Any]]) -> Sheet:
    """A row for each lock of each run."""
    rows = []
    for one in found:
        compress = one["compress"]["p50"]
        for name, held in one["locks"].items():
            taken = sum(held[:-1])
            cells: tuple[str, ...] = (size(one["page"]), BACKENDS[one["delay"]], name, f"{taken:,}")
            cells += (us(bound(held, 0.5)), us(bound(held, 0.9999)), us(held[-1])) if taken else ("-", "-", "-")
            rows.append((*cells, us(compress), f"{beyond(held, compress):,}"))
    head = ("page", "backend", "lock", "times taken", "p50 <=", "p99.99 <=", "longest", "compress", "beyond")
    return Sheet("How long locks are held, in us", head, rows, LOCK_NOTES, found)


def faults_sheet(found: list[dict[str, Any]], seconds: int) -> Sheet:
    """A row for each run."""
    rows = []
    for one in found:
        faults, longest_lock = (
            one["faults"],
            max(held[-1] for name, held in one["locks"].items() if name != "arena_lock"),
        )
        rows.append(
            (
                size(one["page"]),
                BACKENDS[one["delay"]],
                f"{one['touches']:,}",
                f"{faults['count']:,}",
                *(us(faults.get(name)) for name in ("p50", "p99", "p99.99", "longest")),
                us(longest_lock),
            )
        )
    head = ("page", "backend", "touches", "faults", "p50", "p99", "p99.99", "longest", "longest lock in a fault")
    notes = FAULT_NOTES.format(seconds=seconds)
    return Sheet("How long a fault takes, in us", head, rows, notes, [])


def main() -> int:
    """Times are not judged. Exit code 1: a child has failed, or hangs."""
    parser = command.parser("locks", __doc__, "3 seconds each", "for the results and the copy of the core")
    chosen = parser.parse_args()
    seconds = 3 if chosen.quick else 15

    def measure(console: Console, folder: Path) -> tuple[list[Sheet], int]:
        library = native.build(folder)
        copy = build(chosen.out.resolve() / "locktimes", console)
        found, failed = [], 0
        for delay, backend in BACKENDS.items():
            for page in PAGES:
                console.print(f"{size(page)}, {backend}", markup=False, highlight=False)
                try:
                    found.append(run(copy, library, page, delay, seconds, TOUCHES[page]))
                except RuntimeError as error:
                    failed = 1
                    console.print(f"FAILED: {error}", style="bold red", markup=False)
        return [locks_sheet(found), faults_sheet(found, seconds)], failed

    return command.run("locks", chosen, Path("/var/tmp"), measure)


if __name__ == "__main__":
    sys.exit(main())
